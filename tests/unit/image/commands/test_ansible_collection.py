"""The collection serai.vm: ansible-galaxy(1) installs it, and its roles work in any playbook."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from serai.image import digest
from serai.image.commands import ansible_collection, dist
from serai.image.run import search_path
from serai.image.settings import Settings
from tests.conftest import ROOT

# The first writes files, the second includes another role.
PLAYBOOK = """
- hosts: all
  roles: [serai.vm.limits, serai.vm.socat]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody has installed it; ansible.cfg says so."""
    home = tmp_path_factory.mktemp("home")
    archive = ansible_collection.build(Settings.of({}), home)
    config = "[defaults]\ncollections_path = collections\ninterpreter_python = /usr/bin/python3\n"
    (home / "ansible.cfg").write_text(config)
    said(home, "ansible-galaxy", "collection", "install", "--offline", archive.name)
    return home


def said(home: Path, *argv: str) -> str:
    environment = {"PATH": search_path(), "HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(
        argv, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(home: Path) -> Path:
    return home / "collections/ansible_collections/serai/vm"


def test_it_is_whole_and_the_same_each_time(home: Path, tmp_path: Path) -> None:
    assert "Successfully verified" in said(
        home, "ansible-galaxy", "collection", "verify", "--offline", "serai.vm"
    )
    again = ansible_collection.build(Settings.of({}), tmp_path)
    assert digest.of_file(home / again.name) == digest.of_file(again)
    for role in (ROOT / "roles").iterdir():
        for path in role.rglob("*"):
            copy = installed(home) / path.relative_to(ROOT)
            assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    assert not (installed(home) / "src/serai/image").exists()
    (installed(home) / "pins.yml").write_text("")
    with pytest.raises(AssertionError, match=r"pins\.yml"):
        said(home, "ansible-galaxy", "collection", "verify", "--offline", "serai.vm")


def test_a_role_needs_nothing_of_the_playbook(home: Path) -> None:
    (home / "site.yml").write_text(PLAYBOOK)
    local = ("--inventory", "localhost,", "--connection", "local", "--check")
    played = said(home, "ansible-playbook", *local, "site.yml")
    assert "TASK [serai.vm.limits : Set the kernel's limits]" in played
    assert "TASK [serai.vm.base : List the installed packages]" in played
    assert "TASK [serai.vm.socat : Check the version of socat]" in played


def test_its_wheel_is_the_one_of_the_checkout(home: Path, tmp_path: Path) -> None:
    """The role runtime makes it, two directories above itself."""
    wheels = []
    for source, into in ((ROOT, tmp_path / "ours"), (installed(home), tmp_path / "theirs")):
        into.mkdir()
        wheels.append(dist._build(source, into, "wheel"))
    assert digest.of_file(wheels[0]) == digest.of_file(wheels[1])


def test_the_variables_of_all_roles_are_those_of_the_playbook(home: Path) -> None:
    path = installed(home) / f"roles/{ansible_collection.SHARED_ROLE}/defaults/main.yml"
    (play,) = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    given = yaml.safe_load(path.read_text())
    assert given["serai_live"] is True
    assert given.items() <= play["vars"].items()
    assert {name for name in play["vars"] if name.startswith("serai_")} == set(given)
