"""Which sessiond a command speaks with."""

from __future__ import annotations

from pathlib import Path

from serai.runtime.cli.exec_core import control
from serai.runtime.client import Client


def connected(vm: str, timeout: float | None = None) -> Client:
    """A connection to a VM, or without an address to this one. Raises SeraiError.

    ``timeout`` (seconds) is for each wait.
    """
    if not vm:
        return Client(Path(control()), timeout)
    from serai.runtime.remote import VmClient  # noqa: PLC0415  # 10 ms that are of no use in the VM

    return VmClient(vm, timeout)
