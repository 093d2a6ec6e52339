"""Carries bytes between two connected sockets, both ways, until both sides have ended."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from serai.common.sockets import reset_when_closed
from serai.gate.connections import splice
from serai.gate.connections.share import LARGE_PIECE, PIECE, Share
from serai.gate.connections.splice import Pipe

BULK = 32 << 10  # bytes
_LINGER = 2.0  # seconds
_MOST_DRAINED = 1 << 20

T = TypeVar("T")


@dataclass
class Traffic:
    """A connection's bytes from and to the client, and the time of the last (loop.time())."""

    touched: float
    sent: int = 0
    received: int = 0
    half_closed: bool = False

    def add_sent(self, count: int) -> None:
        """So many bytes more have gone from the client."""
        self.sent += count
        self.touched = asyncio.get_running_loop().time()

    def add_received(self, count: int) -> None:
        """So many bytes more have gone to the client."""
        self.received += count
        self.touched = asyncio.get_running_loop().time()


async def within(limit: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the result of ``work``. Raises asyncio.TimeoutError after ``limit`` seconds.

    Before Python 3.12 asyncio.wait_for loses a cancellation that comes in the same turn as the
    result, and a connection that is to be cut would go on. This makes no task: each request
    needs several of these calls, and a task would be their largest cost. If the limit and a
    cancellation come in the same turn of the loop, it is a timeout. What need not wait, as most
    of this, costs no timer either.
    """
    result: T = await _Within(limit, work)
    return result


class _Within:
    def __init__(self, limit: float, work: Coroutine[Any, Any, T]) -> None:
        self._limit = limit
        self._work = work

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            awaited = self._work.send(None)
        except StopIteration as result:
            return result.value
        task, late = asyncio.current_task(), False
        assert task is not None  # noqa: S101

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self._limit, expire)
        try:
            return (yield from _go_on(self._work, awaited))
        except asyncio.CancelledError:
            if late:
                raise asyncio.TimeoutError from None
            raise
        finally:
            timer.cancel()


def _go_on(work: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, None, Any]:
    """The rest of ``work``, which waits for ``awaited``."""
    try:
        while True:
            try:
                yield awaited
            except BaseException as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(None)
    except StopIteration as result:
        return result.value
    finally:
        work.close()


async def relay(
    client: socket.socket, upstream: socket.socket, traffic: Traffic, share: Share
) -> None:
    """Carry both ways; the end of one side is passed on as such, and the other side goes on.

    Returns when both have ended. Raises OSError when either breaks. Closing ``upstream`` then sends
    a reset, because the data there is incomplete. The kernel applies back-pressure: the relay reads
    nothing more before it has written the last piece. ``share`` is charged for each of them.
    """

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def client_ends() -> None:
        if not traffic.half_closed and _gone(client):
            raise ConnectionResetError("the client is gone")
        pass_on(upstream)

    def pass_on(sink: socket.socket) -> None:
        traffic.touched = loop.time()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if traffic.half_closed:
            ended.set_result(None)
        traffic.half_closed = True

    ways = [
        _Way(client, upstream, share, ended, note=traffic.add_sent, at_end=client_ends),
        _Way(
            upstream,
            client,
            share,
            ended,
            note=traffic.add_received,
            at_end=partial(pass_on, client),
        ),
    ]
    try:
        for way in ways:
            way.read()
        await ended
    except BaseException:
        with contextlib.suppress(OSError):
            reset_when_closed(upstream)
        raise
    finally:
        for way in ways:
            way.let_go()


async def carry(
    source: socket.socket,
    sink: socket.socket,
    count: int,
    share: Share,
    note: Callable[[int], None],
) -> int:
    """Carry so many bytes one way; returns how many are missing because ``source`` has ended.

    ``note`` is told how many have gone each time some have. Raises OSError when either breaks.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    way = _Way(
        source, sink, share, ended, note=note, at_end=lambda: ended.set_result(None), most=count
    )
    try:
        way.read()
        await ended
    finally:
        way.let_go()
    return way.most


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
    """One way, by the loop's callbacks: tasks would cost more than the bytes they carry.

    ``note`` is told the size of each piece that has gone, ``at_end`` is called at the source's end
    and when the last of ``most`` bytes has gone. What fails is set into ``ended``. Once that is
    done, nothing is carried any more.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        share: Share,
        ended: asyncio.Future[None],
        *,
        note: Callable[[int], None],
        at_end: Callable[[], None],
        most: int = sys.maxsize,
    ) -> None:
        self.most = most
        self._source = source
        self._sink = sink
        self._share = share
        self._ended = ended
        self._note = note
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._held = 0
        self._left = memoryview(b"")
        self._pipe: Pipe | None = None

    def read(self) -> None:
        """From now on read, one piece in each turn of the loop."""
        self._loop.add_reader(self._source, self._step, self._receive)

    def _write(self) -> None:
        self._loop.add_writer(self._sink, self._step, self._send)

    def let_go(self) -> None:
        """Carry nothing more, and give back all that this way holds."""
        self._ended.cancel()  # what waits in line comes to nothing
        # Before the caller closes the descriptors.
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._hold(0)
        self._drop_pipe()

    def _drop_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _hold(self, size: int) -> None:
        self._share.held += size - self._held
        self._held = size

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
        came = self._take(self._share.piece)
        if not came:
            self._loop.remove_reader(self._source)
            self._at_end()
            return
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._pass_on()
        if self._waiting:
            self._hold(came)
            self._loop.remove_reader(self._source)
            self._write()
        else:
            self._choose(came)

    def _take(self, piece: int) -> int:
        if self._pipe is not None:
            size = self._pipe.size if piece == LARGE_PIECE else piece
            with contextlib.suppress(BlockingIOError):
                if came := self._pipe.fill(self._source, min(size, self.most)):
                    return came
            # splice says either before urgent data (tcp(7)), for ever. recv goes past it.
            self._drop_pipe()
        self._left = memoryview(self._source.recv(min(piece, self.most)))
        return len(self._left)

    def _send(self) -> None:
        self._pass_on()
        if not self._waiting:
            came = self._held
            self._loop.remove_writer(self._sink)
            self._hold(0)
            self.read()
            self._choose(came)

    @property
    def _waiting(self) -> bool:
        return bool(self._left) or (self._pipe is not None and self._pipe.held > 0)

    def _pass_on(self) -> None:
        if self._pipe is not None and self._pipe.held:
            size = self._pipe.drain(self._sink)
        else:
            size = self._sink.send(self._left)
            self._left = self._left[size:]
        self.most -= size
        self._note(size)
        if not self.most:
            self._loop.remove_reader(self._source)
            self._at_end()

    def _choose(self, came: int) -> None:
        """A pipe is for large pieces: for others it takes longer than reading them."""
        if came < BULK:
            self._drop_pipe()
        elif self._pipe is None:
            self._pipe = Pipe.take(self._share)
            if self._pipe is not None:
                splice.make_room(self._sink, self._share)


def _gone(client: socket.socket) -> bool:
    """Whether a client can no longer be answered, for example after the bridge's socat was killed.

    A client that has only ended its own side leaves its Unix socket half open.
    """
    poll = select.poll()
    poll.register(client, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
