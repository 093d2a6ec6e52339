"""docs/parity.md against the code: what it says is there, is there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from serai.image.definition import definition, pins
from serai.image.definition import tools as promises
from serai.image.settings import Settings
from serai.image.verify.checks import CHECKS, tools
from serai.image.vm import describe
from serai.runtime.doctor import checks as doctor
from serai.runtime.settings import Limits
from tests.conftest import ROOT

HERE = Settings.of({})
PAGE = (ROOT / "docs/parity.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| the original |")
]


def variables(role: str, file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / f"{file}.yml").read_text())
    return loaded


def row(begin: str) -> str:
    (found,) = [cells[1] for cells in ROWS if cells[0].startswith(begin)]
    return found


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: str(cells[0]))
def test_each_line_names_what_sees_it(cells: list[str]) -> None:
    assert len(cells) == 3
    assert all(cells)
    names = {check.name for check in CHECKS} | {check.name for check in doctor.CHECKS}
    for seen in cells[2].split("; "):
        if seen.startswith('"'):
            assert seen.strip('"') in names
        else:
            assert (ROOT / seen.strip("`")).is_file(), seen


def test_the_variables_that_it_names_are_some_roles() -> None:
    known = {
        name
        for role in (ROOT / "roles").iterdir()
        for name in variables(role.name, "defaults/main") or {}
    }
    named = set(re.findall(r"`((?:seal|identity|agent|snaps|toolchain)_\w+)`", PAGE))
    assert named
    assert named <= known


def test_node_and_npm_are_the_pinned_ones() -> None:
    pinned = pins.read(HERE)
    node, npm = row("Node.js"), row("npm 10")
    assert node.startswith(f"{pinned['node'].version},")
    assert f"Debian 12: {pinned['node_wheel'].version} " in node
    assert npm == f"{pinned['node'].npm}; Debian 12: {pinned['node_wheel'].npm}"


@pytest.mark.parametrize(
    ("begin", "package"),
    [
        ("Python", "python3"),
        ("pip", "python3-pip"),
        ("GCC", "gcc"),
        ("OpenJDK", "default-jdk-headless"),
    ],
)
def test_the_standard_profile_has_each_tool(begin: str, package: str) -> None:
    """And the versions in the table are those that a booted image is checked for."""
    command = {"Python": "python3", "GCC": "gcc", "OpenJDK": "java"}.get(begin, begin)
    ours, debians = row(begin).split("; Debian 12: ")
    assert ours.split(",")[0] == promises.VERSIONS["ubuntu-22.04"][command]
    assert debians == promises.VERSIONS["debian-12"][command]
    added = variables("toolchain", "vars/main")["toolchain_added"]
    assert row(begin)
    assert package in added["minimal"] + added["standard"]


def test_no_profile_brings_go_rust_or_docker() -> None:
    text = (ROOT / "roles/toolchain/vars/main.yml").read_text()
    lists = [variables("toolchain", f"vars/{name}") for name in ("Debian", "Ubuntu")]
    words = set(re.findall(r"[\w.+-]+", text + str(lists)))
    assert not words & {"golang", "golang-go", "rustc", "cargo", "docker.io", "docker", "podman"}
    assert variables("toolchain", "defaults/main")["toolchain_packages"] == []


def test_the_check_knows_the_roles_defaults() -> None:
    assert list(promises.PROFILES) == variables("toolchain", "vars/main")["toolchain_levels"]
    assert variables("identity", "defaults/main")["identity_locale"] == tools.LOCALE


def test_the_limits_are_the_references_in_both_places() -> None:
    logins = variables("limits", "defaults/main")
    assert (logins["limits_nofile"], logins["limits_nproc"]) == (524288, 14813)
    assert (logins["limits_stack"], logins["limits_memlock"]) == (8192, 8192)
    assert {f"limits_{name}": value for name, value in tools.LIMITS.items()} == {
        name: logins[name] for name in logins if name.removeprefix("limits_") in tools.LIMITS
    }
    session = Limits()
    assert (session.nofile, session.nproc) == (524288, 14813)
    assert (session.stack, session.memlock) == (8 << 20, 8 << 20)


def test_ubuntus_kernel_is_the_enablement_one_with_all_its_modules() -> None:
    packages = variables("kernel", "vars/Ubuntu")["kernel_packages"]
    assert all("-hwe-" in name for name in packages)
    assert any(name.startswith("linux-image-extra-") for name in packages)


def test_the_machine_is_the_references() -> None:
    image = definition.load(HERE, definition.DEFAULT_IMAGE)
    assert (image.disk.size, image.disk.sessions, image.disk.bus) == ("10G", "10G", "nvme")
    assert (describe.CPUS, f"{describe.MEMORY}M") == (4, definition.size("3.8G"))
