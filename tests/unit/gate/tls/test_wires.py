from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from serai.gate.connections.share import Share
from serai.gate.tls.authority import Authority
from serai.gate.tls.wires import TlsWire
from tests.unit.gate.tls.test_authority import Memory

RECORDS = 200


@pytest.mark.parametrize("cut", [False, True])
def test_others_run_between_two_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cut: bool
) -> None:
    """All of them are there at once: whoever writes tiny ones is not to have the loop for long."""
    monkeypatch.setattr(Share, "overdue", lambda _: True)
    authority = Authority(Memory(), tmp_path)
    trusting = ssl.create_default_context(cadata=authority.roots(["a.test"]).decode())
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(came, goes, server_hostname="a.test")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read(client: socket.socket, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        wire = TlsWire(server, authority.context("a.test"), Share(), name=None, early=b"")
        shaken = loop.create_task(wire.handshake())
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            await loop.sock_sendall(client, goes.read())
            came.write(await loop.sock_recv(client, 1 << 16))
        await loop.sock_sendall(client, goes.read())
        await shaken
        for _ in range(RECORDS):
            tls.write(b"x")
        sent = goes.read()
        await loop.sock_sendall(client, sent[:-1] if cut else sent)
        client.close()
        assert not wire.quiet()
        nonlocal turns
        others, turns = loop.create_task(other()), 0
        got = b""
        with contextlib.suppress(ssl.SSLError):  # it ends without a goodbye
            while data := await wire.recv(1 << 16):
                got += data
        others.cancel()
        assert got == b"x" * (RECORDS - cut)

    client, server = socket.socketpair()
    with client, server:
        client.setblocking(False)
        server.setblocking(False)
        asyncio.run(read(client, server))
    assert turns >= RECORDS - 1
