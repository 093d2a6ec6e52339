"""A VM without a systemd, and what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attached_folders import OWNER
from tests.support.fake_vm import Vm, opened


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    """One for all tests of a module, whose daemon runs."""
    with opened() as machine:
        machine.start()
        yield machine


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
    """A session that runs."""
    made: str = vm.call("create")["name"]
    yield made
    vm.call("remove", name=made)


@pytest.fixture(scope="module")
def one(vm: Vm) -> None:
    """The session ``one``, which runs as long as the VM."""
    vm.call("create", name="one", labels={"task": "7"})


@pytest.fixture
def unharmed(vm: Vm, one: None) -> Iterator[None]:
    """After each test the daemon and the session ``one`` are as they were."""
    with vm.unharmed("one"):
        yield
