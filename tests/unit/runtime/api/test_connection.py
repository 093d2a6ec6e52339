"""The daemon's end of a client's connection."""

from __future__ import annotations

import asyncio
import socket

from serai.runtime.api.connection import HIGH_WATER, Connection


def test_nobody_waits_for_a_client_that_hung_up_with_much_unread() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        client = Connection(ours, lambda *_: None, lambda _: None)
        with theirs:
            while client._queued <= HIGH_WATER:
                client.send(b"x" * 65536)
        # Nothing was read of it: this one finds the other end closed.
        client.send(b"x")
        assert client.gone.done()
        await asyncio.wait_for(client.drained(), 10)

    asyncio.run(talk())
