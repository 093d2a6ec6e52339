"""A connection that goes as messages: windows, both ends, and how it breaks."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.common.sockets import reset_when_closed
from serai.common.streams import CHUNK, WINDOW, PortStream

DEADLINE = 20.0


class Told:
    """What a stream tells its other end, and how it ended."""

    def __init__(self, first: Callable[[bytes], bytes | None] | None = None) -> None:
        self.data = b""
        self.eof = False
        self.taken = 0
        self.ended: list[bool] = []
        self.drained = asyncio.Event()
        self.drained.set()
        self.stream = PortStream(self.tell, self.ended.append, self.drained, first)

    def tell(self, event: str, **params: Any) -> None:
        if event == "taken":
            self.taken += params["bytes"]
        else:
            self.data += base64.b64decode(params["data"])
            self.eof = params["eof"]


@asynccontextmanager
async def begun(
    first: Callable[[bytes], bytes | None] | None = None,
) -> AsyncIterator[tuple[Told, socket.socket]]:
    """A stream at work, and the socket of who is connected to it by TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.setblocking(False)
    told = Told(first)
    told.stream.begin(near)
    with far:
        yield told, far
    told.stream.drop()


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(look(), DEADLINE)


async def turns() -> None:
    """Some turns of the loop, in which nothing may happen."""
    for _ in range(50):
        await asyncio.sleep(0.001)


async def everything(end: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while more := await asyncio.wait_for(loop.sock_recv(end, 1 << 20), DEADLINE):
        data += more
    return data


def test_what_comes_before_the_connection_is_there_is_kept_for_it() -> None:
    async def run() -> None:
        told = Told()
        told.stream.feed(b"early", eof=True)
        near, far = socket.socketpair()
        far.setblocking(False)
        with far:
            told.stream.begin(near)
            assert await everything(far) == b"early"
            far.shutdown(socket.SHUT_WR)
            await until(lambda: told.ended == [False])
        assert (told.data, told.eof) == (b"", True)

    asyncio.run(run())


def test_no_more_than_a_window_is_on_its_way_either_way() -> None:
    async def run() -> None:
        async with begun() as (told, far):
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(far, bytes(3 * WINDOW)))
            await until(lambda: len(told.data) == WINDOW)
            await turns()
            assert len(told.data) == WINDOW
            told.stream.grant(10)
            await until(lambda: len(told.data) == WINDOW + 10)
            told.stream.grant(1 << 40)  # counts as one window
            await until(lambda: len(told.data) == 2 * WINDOW + 10)
            await turns()
            assert len(told.data) == 2 * WINDOW + 10
            sending.cancel()
            with pytest.raises(SeraiError, match="on their way"):
                for _ in range(1000):  # the kernel takes some, too
                    told.stream.feed(bytes(CHUNK), eof=False)

    asyncio.run(run())


def test_what_was_passed_on_may_be_followed_by_as_much() -> None:
    async def run() -> None:
        async with begun() as (told, far):

            async def feed() -> None:
                for sent in range(CHUNK, 4 * WINDOW + 1, CHUNK):
                    await until(partial(lambda sent: sent - told.taken <= WINDOW, sent))
                    told.stream.feed(bytes(CHUNK), eof=False)
                told.stream.feed(b"", eof=True)

            got, _ = await asyncio.gather(everything(far), feed())
            assert len(got) == 4 * WINDOW

    asyncio.run(run())


def test_nothing_is_read_while_the_way_is_full() -> None:
    async def run() -> None:
        async with begun() as (told, far):
            far.send(b"one")
            await until(lambda: told.data == b"one")
            told.drained.clear()
            far.send(b"two")  # one piece may be read: it is watched already
            await until(lambda: told.data == b"onetwo")
            far.send(b"three")
            await turns()
            assert told.data == b"onetwo"
            told.drained.set()
            await until(lambda: told.data == b"onetwothree")

    asyncio.run(run())


@pytest.mark.parametrize("reset", [False, True])
def test_it_ends_as_the_other_end_did_once_its_bytes_are_passed_on(reset: bool) -> None:
    async def run() -> None:
        async with begun() as (told, far):
            told.stream.feed(b"last", eof=False)
            told.stream.finish(reset=reset)
            await until(lambda: told.ended == [reset])
            assert await asyncio.get_running_loop().sock_recv(far, 4) == b"last"
            if reset:
                with pytest.raises(ConnectionResetError):
                    await everything(far)
            else:
                assert await everything(far) == b""

    asyncio.run(run())


def test_who_reads_no_more_is_still_heard() -> None:
    async def run() -> None:
        async with begun() as (told, far):
            far.send(b"no")
            far.shutdown(socket.SHUT_RD)
            far.close()
            await until(lambda: told.eof)
            while not told.stream.lossy:
                told.stream.feed(b"x", eof=False)
                await asyncio.sleep(0.001)
            assert told.data == b"no"
            assert told.ended == [False]

    asyncio.run(run())


def test_a_reset_is_told() -> None:
    async def run() -> None:
        async with begun() as (told, far):
            reset_when_closed(far)
            far.close()
            await until(lambda: told.ended == [True])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("pieces", "told_first"), [((b"a", b"b!c", b"d"), b"AB!cd"), ((b"a", b"b"), b"ab")]
)
def test_a_start_is_changed_as_soon_as_it_is_whole(
    pieces: tuple[bytes, ...], told_first: bytes
) -> None:
    def first(start: bytes) -> bytes | None:
        head, whole, rest = start.partition(b"!")
        return head.upper() + whole + rest if whole else None

    async def run() -> None:
        async with begun(first) as (told, far):
            for piece in pieces:
                far.send(piece)
                await turns()
            told.stream.feed(b"answer", eof=False)  # may come before that
            assert await asyncio.get_running_loop().sock_recv(far, 6) == b"answer"
            far.shutdown(socket.SHUT_WR)
            await until(lambda: told.eof)
            assert told.data == told_first

    asyncio.run(run())


def test_a_reset_that_only_a_write_saw_is_told_as_one() -> None:
    async def run() -> None:
        async with begun() as (told, far):
            far.send(b"part of an answer")
            await until(lambda: told.data == b"part of an answer")
            told.drained.clear()
            told.stream._unwatch()  # so that the write comes first
            reset_when_closed(far)
            far.close()
            while not told.stream.lossy:  # the reset comes when it comes
                told.stream.feed(b"x", eof=False)
                await asyncio.sleep(0.001)
            told.drained.set()
            told.stream._watch()
            await until(lambda: told.ended == [True])
            assert not told.eof

    asyncio.run(run())


@pytest.mark.parametrize("size", [-1, 1.5, "a", None])
def test_what_is_no_number_of_bytes_is_refused(size: Any) -> None:
    async def run() -> None:
        with pytest.raises(ValueError, match=r"^(-1|1.5|a|None)$"):
            Told().stream.grant(size)

    asyncio.run(run())


def test_a_stream_that_was_dropped_closes_what_comes_too_late() -> None:
    async def run() -> None:
        told = Told()
        told.stream.drop()
        near, far = socket.socketpair()
        with far:
            told.stream.begin(near)
            assert far.recv(1) == b""
        assert told.ended == []

    asyncio.run(run())
