"""The seal's program: the sources of packages that an image of each Ubuntu has."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest

from serai.image.definition import variables
from serai.image.guest import probe
from tests.conftest import ROOT

ROLE = ROOT / "roles/seal"
SUITES = {"22.04": "jammy", "24.04": "noble"}
CHOSEN = "deb http://mirror.example/ubuntu jammy main"


def rendered(template: str, known: dict[str, Any]) -> str:
    """As Ansible does it: what a template expands to may be one again."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["quote"] = shlex.quote
    environment.filters["ternary"] = lambda value, yes, no: yes if value else no
    while "{{" in template:
        template = environment.from_string(template).render(known)
    return template


def sealed(
    folder: Path, release: str, machine: str = "x86_64", chosen: tuple[str, ...] = ()
) -> None:
    """Run the part of the program that names the sources, on ``folder`` as its /etc/apt."""
    (folder / "sources.list.d").mkdir()
    (folder / "sources.list").write_text("# see sources.list.d\n")
    if release == "24.04":
        shipped = "Types: deb\nURIs: http://mirror.invalid/\nSuites: noble\nComponents: main\n"
        (folder / "sources.list.d/ubuntu.sources").write_text(shipped)
    known = variables.of_distribution(ROLE, "ubuntu", release)
    facts = {"distribution_release": SUITES[release], "architecture": machine}
    known |= {"ansible_facts": facts, "seal_sources": list(chosen)}
    template = (ROLE / "templates/seal.sh.j2").read_text()
    part = template.partition('begin "naming the sources')[2].partition('begin "removing')[0]
    script = rendered(part.partition("\n")[2], known).replace("/etc/apt", str(folder))
    subprocess.run(["/bin/sh", "-euc", script], check=True)


def sources(folder: Path) -> list[str]:
    """As apt itself resolves them, and as verify-image asks it in the booted image."""
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": folder / "sources.list.d",
        "Dir::State::lists": folder,
    }
    found = probe.apt(
        *[word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    )
    return list(found["sources"])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("release", SUITES)
def test_an_image_has_sources_for_updates_and_security(
    release: str, machine: str, tmp_path: Path
) -> None:
    sealed(tmp_path, release, machine)
    found, suite = sources(tmp_path), SUITES[release]
    assert {each.split()[1] for each in found} == {suite, f"{suite}-updates", f"{suite}-security"}
    assert all(each.startswith("http://") and ".ubuntu.com/" in each for each in found)
    assert all(("ports" in each) == (machine == "aarch64") for each in found)


@pytest.mark.parametrize("release", SUITES)
def test_chosen_sources_are_the_only_ones(release: str, tmp_path: Path) -> None:
    sealed(tmp_path, release, chosen=(CHOSEN,))
    assert {each.split()[0] for each in sources(tmp_path)} == {"http://mirror.example/ubuntu"}


def test_an_image_says_which_it_is_again_after_its_distribution_wrote_the_file(
    tmp_path: Path,
) -> None:
    release, hook = tmp_path / "os-release", tmp_path / "91serai-os-release"
    plain = 'ID=debian\nVARIANT_ID=server\nVERSION_ID="12"\n'
    release.write_text(plain)
    known = {"seal_image_id": "debian-12-amd64-acme", "seal_image_version": "0.1.0-1234abcd"}
    template = (ROLE / "templates/seal.sh.j2").read_text()
    part = template.partition('begin "saying which image')[2].partition('begin "naming')[0]
    script = rendered(part.partition("\n")[2], known).replace("/etc/apt/apt.conf.d", str(tmp_path))
    script = script.replace("/usr/lib/os-release", str(release))
    subprocess.run(["/bin/sh", "-euc", script], check=True)
    said = said_by(release)
    assert said == {
        "ID": "debian",
        "VERSION_ID": "12",
        "VARIANT": "Serai",
        "VARIANT_ID": "serai",
        "IMAGE_ID": "debian-12-amd64-acme",
        "IMAGE_VERSION": "0.1.0-1234abcd",
    }
    release.write_text("ID=debian\nVERSION_ID=12\n")  # as the package base-files does
    asked = ["apt-config", "-c", str(hook), "dump", "--format", "%v%n", "DPkg::Post-Invoke"]
    told = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout
    (command,) = [line for line in told.splitlines() if str(release) in line]
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", command], check=True)
    assert said_by(release) == said


def said_by(release: Path) -> dict[str, str]:
    """What os-release(5) says, as a shell reads it; no name is there twice."""
    lines = [line.partition("=") for line in release.read_text().splitlines()]
    names = [name for name, _, _ in lines]
    assert len(names) == len(set(names))
    return {name: " ".join(shlex.split(value)) for name, _, value in lines}
