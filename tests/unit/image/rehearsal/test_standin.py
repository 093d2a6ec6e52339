"""The stand-in's archive as apt reads it, and its snap as the role snaps meets it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from serai.image.definition import variables
from serai.image.rehearsal import archive, standin
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT

SNAP = ROOT / "src/serai/image/rehearsal/data/packages/snapd/usr/bin/snap"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What apt knows after it has read the archive: the version of each package."""
    folder = tmp_path_factory.mktemp("archive")
    archive.make(folder / "ubuntu")
    lines = [f"deb [trusted=yes] file:{folder}/ubuntu {suite} main" for suite in archive.SUITES]
    (folder / "sources.list").write_text("\n".join(lines) + "\n")
    (folder / "status").touch()
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "",
    }
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    told = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    run(["apt-get", *told, "-qq", "update"])
    said = run(["apt-cache", *told, "dumpavail"]).stdout
    return {
        entry["Package"]: entry["Version"]
        for entry in map(yaml.safe_load, said.strip().split("\n\n"))
    }


def test_the_archive_has_what_only_ubuntu_has(packages: dict[str, str]) -> None:
    found = variables.packages(Settings.of({}), "ubuntu", "22.04", {})
    wanted = {name for name in found if "hwe" in name}
    wanted = {name.replace("{{ ansible_facts.distribution_version }}", "22.04") for name in wanted}
    assert wanted == {"linux-virtual-hwe-22.04", "linux-image-extra-virtual-hwe-22.04"}
    assert wanted | set(standin.OWN) <= set(packages)


def snap(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = SNAP.read_text().replace("/var/lib/snapd/state.json", str(state))
    program = program.replace('"umount"', '"true"').replace("/snap/", f"{state.parent}/snap/")
    argv = ["/usr/bin/python3", "-c", program, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_snap_refuses_what_the_real_one_refuses(tmp_path: Path) -> None:
    """Anything while it is seeding, and a base that is in use."""
    state = tmp_path / "state.json"
    assert "No snaps are installed yet" in snap(state, "list").stderr
    for name in ("snapd", "core20", "lxd"):
        (tmp_path / "snap" / name).mkdir(parents=True)
    state.write_text(json.dumps({"seeded": False, "snaps": ["snapd", "core20", "lxd"]}))
    assert "too early for operation" in snap(state, "remove", "--purge", "lxd").stderr
    state.write_text(json.dumps({"seeded": True, "snaps": ["snapd", "core20", "lxd"]}))
    assert snap(state, "wait", "system", "seed.loaded").returncode == 0
    assert "used by ['lxd']" in snap(state, "remove", "--purge", "core20").stderr
    assert "remove all other snaps first" in snap(state, "remove", "--purge", "snapd").stderr
    for name in ("lxd", "core20", "snapd"):
        assert snap(state, "remove", "--purge", name).returncode == 0, name
    assert json.loads(state.read_text())["snaps"] == []
