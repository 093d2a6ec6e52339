"""Carries bytes between two connected sockets, both ways, until both have said all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

CHUNK = 256 << 10
_TURN = 16  # chunks in a row of one connection, before others get their turn


@dataclass
class Traffic:
    """What went through a connection: bytes from and to the client, and when (loop.time())."""

    touched: float
    sent: int = 0
    received: int = 0
    half_closed: bool = False


async def relay(client: socket.socket, upstream: socket.socket, traffic: Traffic) -> None:
    """Carry both ways; the end of one side is passed on as such, and the other side goes on.

    Returns when both have ended. Raises OSError when either breaks. Back-pressure is the kernel's:
    nothing is read before what was read is written.
    """

    def sent(count: int) -> None:
        traffic.sent += count

    def received(count: int) -> None:
        traffic.received += count

    ways = {
        asyncio.ensure_future(_carry(client, upstream, traffic, sent)),
        asyncio.ensure_future(_carry(upstream, client, traffic, received)),
    }
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        for way in done:
            way.result()
    finally:
        for way in ways:
            way.cancel()
        # Until they have let go of the descriptors these must not be closed and used again.
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(
    source: socket.socket, sink: socket.socket, traffic: Traffic, count: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    turn = 0
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
        count(len(data))
        traffic.touched = loop.time()
        turn += 1
        if turn % _TURN == 0:
            await asyncio.sleep(0)
    traffic.half_closed = True
    traffic.touched = loop.time()
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
