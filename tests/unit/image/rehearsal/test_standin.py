"""The stand-in's archive as apt reads it, and its snap as the role snaps meets it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from serai.image.definition import variables
from serai.image.rehearsal import archive, rehearsal, standin
from serai.image.rehearsal.releases import JAMMY, NOBLE, RELEASES, Ubuntu
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT

DATA = ROOT / "src/serai/image/rehearsal/data"
SNAP = DATA / "packages/snapd/usr/bin/snap"


def packages(folder: Path, release: Ubuntu) -> dict[str, str]:
    """What apt knows after it has read the release's own sources: the version of each package."""
    archive.make(folder / "ubuntu", release)
    sources = folder / Path(release.sources).name
    text = (DATA / release.name / release.sources.lstrip("/")).read_text()
    sources.write_text(text.replace("file:/srv/ubuntu", f"file:{folder}/ubuntu"))
    (folder / "status").touch()
    options = {
        "Dir::Etc::sourcelist": sources,
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


@pytest.mark.parametrize(
    ("release", "kernel"),
    [
        (JAMMY, {"linux-virtual-hwe-22.04", "linux-image-extra-virtual-hwe-22.04"}),
        (NOBLE, {"linux-virtual", "linux-image-extra-virtual"}),
    ],
)
def test_the_archive_has_what_only_ubuntu_has(
    tmp_path: Path, release: Ubuntu, kernel: set[str]
) -> None:
    found = variables.packages(Settings.of({}), "ubuntu", release.version, {})
    wanted = {name for name in found if name.startswith("linux-")}
    version = "{{ ansible_facts.distribution_version }}"
    assert {name.replace(version, release.version) for name in wanted} == kernel
    assert kernel | {*standin.OWN, *release.own} <= set(packages(tmp_path, release))


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_names_itself_the_same_everywhere(release: Ubuntu) -> None:
    tree = DATA / release.name
    system = dict(
        line.split("=") for line in (tree / "usr/lib/os-release").read_text().split("\n")[:-1]
    )
    assert system["ID"] == "ubuntu"
    assert system["VERSION_ID"] == f'"{release.version}"'
    assert system["VERSION_CODENAME"] == release.codename
    assert f"DISTRIB_CODENAME={release.codename}\n" in (tree / "etc/lsb-release").read_text()
    sources = (tree / release.sources.lstrip("/")).read_text()
    assert set(re.findall(rf"{release.codename}[a-z-]*", sources)) == set(release.suites)


@pytest.mark.parametrize("release", RELEASES)
def test_both_playbooks_are_rehearsed(release: Ubuntu) -> None:
    found = [each.is_image for each in rehearsal.RUNS if each.release == release]
    assert sorted(found) == [False, True]


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
