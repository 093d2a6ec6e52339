"""What tests of attached folders have in common."""

from __future__ import annotations

from serai.runtime.client import Client, Completed
from tests.support.fake_vm import Vm

OWNER = 41000
KINDS = ("idmap", "bindfs")


def sh(vm: Vm, name: str, script: str, *words: str) -> Completed:
    with Client(vm.paths.control, timeout=60) as client:
        return client.exec(name, ["/bin/sh", "-c", script, "sh", *words])
