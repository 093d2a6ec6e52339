"""One room for the tests of a module, whole until they weaken it."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator

import pytest

from tests.support.sandbox import Room, make_session, make_top, open_room
from tests.support.weak_sandbox import MARK, OTHER_UID, UID, Vm


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5E7B0000 + os.getpid() % 0xFFFF
    with make_top() as top, socket.create_server(("127.0.0.1", 0)) as server:
        session = make_session(top, "blue", UID)
        other = make_session(top, "other", OTHER_UID)
        other.home.chmod(0o777)
        secret = other.home / "secret"
        secret.write_text(MARK)
        secret.chmod(0o666)
        segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
        try:
            yield Vm(top, session, secret, server.getsockname()[1], key)
        finally:
            libc.shmctl(segment, 0, None)  # IPC_RMID


@pytest.fixture(scope="module")
def room(vm: Vm) -> Iterator[Room]:
    with open_room(vm.session) as opened:
        yield opened
