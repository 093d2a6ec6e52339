"""Carries bytes between two connected sockets, both ways, until both have said all."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

CHUNK = 256 << 10
TURN = 16  # chunks in a row of one connection, before others get their turn
_LINGER = 2.0  # seconds
_MOST_DRAINED = 1 << 20
_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


@dataclass
class Traffic:
    """What went through a connection: bytes from and to the client, and when (loop.time())."""

    touched: float
    sent: int = 0
    received: int = 0
    half_closed: bool = False


async def within(limit: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. Raises asyncio.TimeoutError after ``limit`` seconds.

    Before Python 3.12 asyncio.wait_for loses a cancellation that comes in the same turn as the
    result, and a connection that is to be cut would go on. Nor does this make a task: there are
    several of these in each request, and a task costs more than all else about them. Where both the
    limit and a cancellation come in one turn of the loop this is a timeout.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = loop.call_later(limit, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


async def relay(client: socket.socket, upstream: socket.socket, traffic: Traffic) -> None:
    """Carry both ways; the end of one side is passed on as such, and the other side goes on.

    Returns when both have ended. Raises OSError when either breaks; closing ``upstream`` is then a
    reset, as what was said there is not all. Back-pressure is the kernel's: nothing is read before
    what was read is written.
    """

    def sent(count: int) -> None:
        traffic.sent += count

    def received(count: int) -> None:
        traffic.received += count

    ways = {
        asyncio.ensure_future(_carry(client, upstream, traffic, sent, watched=True)),
        asyncio.ensure_future(_carry(upstream, client, traffic, received)),
    }
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        for way in done:
            way.result()
    except BaseException:
        with contextlib.suppress(OSError):
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise
    finally:
        for way in ways:
            way.cancel()
        # As above: the caller closes the descriptors next.
        await asyncio.gather(*ways, return_exceptions=True)


async def hang_up(client: socket.socket) -> None:
    """End a connection to a client that may be writing still: not with a reset, which would take
    from it what it has not read yet. Raises OSError.
    """
    client.shutdown(socket.SHUT_WR)
    with contextlib.suppress(asyncio.TimeoutError):
        await within(_LINGER, _drain(client))


async def _drain(client: socket.socket) -> None:
    loop, left = asyncio.get_running_loop(), _MOST_DRAINED
    while left > 0 and (data := await loop.sock_recv(client, CHUNK)):
        left -= len(data)


async def _carry(
    source: socket.socket,
    sink: socket.socket,
    traffic: Traffic,
    count: Callable[[int], None],
    *,
    watched: bool = False,
) -> None:
    """One way; ``watched`` says that the source's going altogether counts as its breaking."""
    loop = asyncio.get_running_loop()
    turn = 0
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
        count(len(data))
        traffic.touched = loop.time()
        turn += 1
        if turn % TURN == 0:
            await asyncio.sleep(0)
    if watched and not traffic.half_closed and _gone(source):
        raise ConnectionResetError("the client is gone")
    traffic.half_closed = True
    traffic.touched = loop.time()
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _gone(client: socket.socket) -> bool:
    """Whether a client has not only said all but cannot be answered either, as when the bridge's
    socat is killed. One that goes on listening leaves its Unix socket half open.
    """
    poll = select.poll()
    poll.register(client, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
