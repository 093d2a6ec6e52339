"""Carries bytes between two connected sockets, both ways, until both sides have ended."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from serai.gate.share import PIECE, Share

_LINGER = 2.0  # seconds
_MOST_DRAINED = 1 << 20
_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


@dataclass
class Traffic:
    """A connection's bytes from and to the client, and the time of the last (loop.time())."""

    touched: float
    sent: int = 0
    received: int = 0
    half_closed: bool = False


async def within(limit: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the result of ``work``. Raises asyncio.TimeoutError after ``limit`` seconds.

    Before Python 3.12 asyncio.wait_for loses a cancellation that comes in the same turn as the
    result, and a connection that is to be cut would go on. This makes no task: each request
    needs several of these calls, and a task would be their largest cost. If the limit and a
    cancellation come in the same turn of the loop, it is a timeout.
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


async def relay(
    client: socket.socket, upstream: socket.socket, traffic: Traffic, share: Share
) -> None:
    """Carry both ways; the end of one side is passed on as such, and the other side goes on.

    Returns when both have ended. Raises OSError when either breaks. Closing ``upstream`` then sends
    a reset, because the data there is incomplete. The kernel applies back-pressure: the relay reads
    nothing more before it has written the last piece. ``share`` is charged for each of them.
    """

    def sent(count: int) -> None:
        traffic.sent += count

    def received(count: int) -> None:
        traffic.received += count

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    ways = [
        _Way(client, upstream, traffic, sent, ended, share=share, watched=True),
        _Way(upstream, client, traffic, received, ended, share=share),
    ]
    try:
        for way in ways:
            way.read()
        await ended
    except BaseException:
        with contextlib.suppress(OSError):
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise
    finally:
        ended.cancel()  # what waits in line comes to nothing
        # As above: the caller closes the descriptors next.
        for sock in (client, upstream):
            loop.remove_reader(sock)
            loop.remove_writer(sock)
        for way in ways:
            way.let_go()


async def hang_up(client: socket.socket) -> None:
    """End a connection to a client that may still be writing. Raises OSError.

    Not by a reset: the client would lose the data that it has not read yet.
    """
    client.shutdown(socket.SHUT_WR)
    with contextlib.suppress(asyncio.TimeoutError):
        await within(_LINGER, _drain(client))


async def _drain(client: socket.socket) -> None:
    loop, left = asyncio.get_running_loop(), _MOST_DRAINED
    while left > 0 and (data := await loop.sock_recv(client, PIECE)):
        left -= len(data)


class _Way:
    """One way of a relay, by the loop's callbacks: tasks would cost more than the bytes they carry.

    Both ways share ``ended``: the second one to end sets it, or the first to fail. With ``watched``
    the way also breaks when the source can no longer be answered.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        traffic: Traffic,
        count: Callable[[int], None],
        ended: asyncio.Future[None],
        *,
        share: Share,
        watched: bool = False,
    ) -> None:
        self._source = source
        self._sink = sink
        self._traffic = traffic
        self._share = share
        self._held = 0
        self._count = count
        self._ended = ended
        self._watched = watched
        self._loop = asyncio.get_running_loop()
        self._left = memoryview(b"")

    def read(self) -> None:
        """From now on read, one piece in each turn of the loop."""
        self._loop.add_reader(self._source, self._step, self._receive)

    def _write(self) -> None:
        self._loop.add_writer(self._sink, self._step, self._send)

    def let_go(self) -> None:
        """Nobody will take what is left."""
        self._share.held -= self._held
        self._held = 0

    def _step(self, work: Callable[[], None]) -> None:
        if not self._share.busy:
            self._work(work)
        elif work == self._receive:  # unwatched, for else the loop would not rest until then
            self._loop.remove_reader(self._source)
            self._share.wait(partial(self._in_turn, self.read, work))
        else:
            self._loop.remove_writer(self._sink)
            self._share.wait(partial(self._in_turn, self._write, work))

    def _in_turn(self, watch: Callable[[], None], work: Callable[[], None]) -> None:
        if not self._ended.done():
            watch()
            self._work(work)

    def _work(self, work: Callable[[], None]) -> None:
        self._share.begin()
        try:
            if not self._ended.done():
                work()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._ended.set_exception(error)
        finally:
            self._share.end()

    def _receive(self) -> None:
        data = self._source.recv(self._share.piece)
        if not data:
            self._loop.remove_reader(self._source)
            self._end()
            return
        try:
            size = self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            size = 0
        self._note(size)
        if size < len(data):
            self._left = memoryview(data)[size:]
            self._held = len(data)  # a view keeps all of it
            self._share.held += self._held
            self._loop.remove_reader(self._source)
            self._write()

    def _send(self) -> None:
        size = self._sink.send(self._left)
        self._note(size)
        self._left = self._left[size:]
        if not self._left:
            self._loop.remove_writer(self._sink)
            self.let_go()
            self.read()

    def _note(self, size: int) -> None:
        self._count(size)
        self._traffic.touched = self._loop.time()

    def _end(self) -> None:
        traffic = self._traffic
        if self._watched and not traffic.half_closed and _gone(self._source):
            raise ConnectionResetError("the client is gone")
        traffic.touched = self._loop.time()
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        if traffic.half_closed:
            self._ended.set_result(None)
        traffic.half_closed = True


def _gone(client: socket.socket) -> bool:
    """Whether a client can no longer be answered, for example after the bridge's socat was killed.

    A client that has only ended its own side leaves its Unix socket half open.
    """
    poll = select.poll()
    poll.register(client, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
