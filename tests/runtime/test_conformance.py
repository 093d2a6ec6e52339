"""The same programs in a folder of every kind of mount: the table in docs/folders.md."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.runtime.client import Client
from tests.runtime import conformance
from tests.runtime.vm import CHECKOUT, Vm, opened

OWNER = 41000
SHARED_MEMORY = Path("/dev/shm")
# What a kind of mount can't do, as the documentation tells.
MISSING = {
    "home": set[str](),
    "idmap": set[str](),
    "tmpfs": {"xattr"},
    "bindfs": {"nameless", "rename_exchange"},
}


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        text = machine.paths.policy.read_text()
        both = f'attachable = ["{SHARED_MEMORY}", '
        machine.paths.policy.write_text(text.replace("attachable = [", both))
        machine.start()
        yield machine


@pytest.mark.parametrize("kind", MISSING)
def test_programs_work_in_a_folder(vm: Vm, kind: str) -> None:
    shown = vm.call("create")
    name, top = shown["name"], SHARED_MEMORY if kind == "tmpfs" else vm.root / "share"
    top.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=top) as folder, Client(vm.paths.control, 120) as client:
        os.chown(folder, OWNER, OWNER)
        inside = vm.paths.home(name) / ("tmp" if kind == "home" else "mnt/workdir")
        if kind != "home":
            how = kind if kind in ("idmap", "bindfs") else "auto"
            client.call("attach", name=name, role="workdir", path=folder, kind=how)
        script = (CHECKOUT / "tests/runtime/conformance.py").read_text()
        ran = client.exec(name, ["python3", "-", str(inside)], input=script.encode())
        assert ran.status == 0, ran
        done = json.loads(ran.stdout)
        problems = {case: how for case, how in done.items() if how != "yes"}
        assert set(problems) <= MISSING[kind], problems
        if kind != "home":
            owners = {path.lstat().st_uid for path in Path(folder).rglob("*")}
            assert owners == {OWNER}
        client.call("remove", name=name)
    assert set(done) == {case.__name__ for case in conformance.CASES}
