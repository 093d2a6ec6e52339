"""Folders of the VM in running sessions: real sandboxes, a real daemon, real mounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.runtime.client import Client, Completed
from tests.runtime.vm import Vm, opened

OWNER = 41000
KINDS = ("idmap", "bindfs")


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        with machine.paths.policy.open("a") as policy:
            policy.write(f'attachable = ["{machine.root}/share"]\n')
        text = machine.paths.policy.read_text()
        machine.paths.policy.write_text("\n".join(sorted(text.splitlines(), key=is_table)))
        machine.start()
        yield machine


def is_table(line: str) -> bool:
    return not line.startswith("attachable")


@pytest.fixture
def share(vm: Vm, request: pytest.FixtureRequest) -> Path:
    """A folder of the VM that belongs to OWNER, with a file in it."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    folder = vm.root / "share" / name
    folder.mkdir(parents=True)
    (folder / "given").write_text("given")
    for path in (folder, folder / "given"):
        os.chown(path, OWNER, OWNER)
    return folder


@pytest.fixture
def name(vm: Vm) -> Iterator[str]:
    made: str = vm.call("create")["name"]
    yield made
    vm.call("remove", name=made)


def sh(vm: Vm, name: str, script: str, *words: str) -> Completed:
    with Client(vm.paths.control, timeout=60) as client:
        return client.exec(name, ["/bin/sh", "-c", script, "sh", *words])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_session_writes_belongs_to_the_folders_owner(
    vm: Vm, name: str, share: Path, kind: str
) -> None:
    shown = vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    assert [(each["role"], each["mount"]) for each in shown["folders"]] == [("outputs", kind)]
    done = sh(
        vm,
        name,
        "cd mnt/outputs; stat -c '%u %a' . given; echo new >new; mkdir sub; stat -c %u new; id -u",
    )
    assert done.status == 0, done
    uid = str(shown["uid"])
    assert done.stdout.decode().split() == [uid, "755", uid, "644", uid, uid]
    for path in (share / "new", share / "sub"):
        assert (path.stat().st_uid, path.stat().st_gid) == (OWNER, OWNER)
    assert (share / "new").read_text() == "new\n"
    vm.call("detach", name=name, role="outputs")
    assert sh(vm, name, "ls mnt/outputs").stdout == b""
    assert (share / "new").exists()
    assert not list(vm.cgroup.glob(f"{name}.*"))
