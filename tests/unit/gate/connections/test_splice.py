"""Long transfers go through pipes, and only those; real sockets on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from serai.gate.connections import share, splice
from serai.gate.connections.relay import BULK, Traffic, carry, relay
from serai.gate.connections.share import Share
from serai.gate.connections.splice import Pipe
from tests.support.descriptors import open_ones
from tests.support.waiting import DEADLINE

LONG = 8 << 20


@pytest.fixture(autouse=True)
def no_pipe_is_left() -> Iterator[None]:
    before = open_ones()
    yield
    assert Pipe._slots == 0
    assert open_ones() <= before  # what an earlier test left may close meanwhile


@contextmanager
def ends() -> Iterator[tuple[socket.socket, socket.socket, socket.socket, socket.socket]]:
    """Client and the gate's end of a Unix socket, the gate's end and origin of a TCP one."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        outer = stack.enter_context(socket.create_connection(listener.getsockname()))
        origin = stack.enter_context(listener.accept()[0])
        client, inner = (stack.enter_context(sock) for sock in socket.socketpair())
        for sock in (client, inner, outer, origin):
            sock.setblocking(False)
        yield client, inner, outer, origin


async def read(sock: socket.socket, count: int = LONG + 1) -> bytes:
    """What comes until the end, or so many bytes."""
    data = b""
    while len(data) < count and (more := await asyncio.get_running_loop().sock_recv(sock, 1 << 20)):
        data += more
    return data


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_long_transfer_goes_through_a_pipe_both_ways_and_arrives_whole() -> None:
    down, up, most = os.urandom(LONG), os.urandom(LONG), 0

    async def main() -> tuple[Traffic, bytes, bytes]:
        nonlocal most
        loop, mine, traffic = asyncio.get_running_loop(), Share(), Traffic(now())
        with ends() as (client, inner, outer, origin):
            work = asyncio.ensure_future(relay(inner, outer, traffic, mine))

            async def give(sock: socket.socket, data: bytes) -> None:
                nonlocal most
                await loop.sock_sendall(sock, data)
                most = max(most, mine.slots)
                sock.shutdown(socket.SHUT_WR)

            gives = [give(client, up), give(origin, down)]
            reads = [asyncio.ensure_future(read(sock)) for sock in (client, origin)]
            await asyncio.gather(*gives, work)
            assert mine.held == mine.slots == 0
            return traffic, await reads[0], await reads[1]

    traffic, received, sent = asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert hashlib.sha256(received).digest() == hashlib.sha256(down).digest()
    assert hashlib.sha256(sent).digest() == hashlib.sha256(up).digest()
    assert (traffic.received, traffic.sent) == (LONG, LONG)
    assert most >= 1


def test_a_piece_that_had_to_wait_chooses_too() -> None:
    """Else tiny pieces keep a pipe as long as each of them finds the sink full."""

    async def main() -> list[int]:
        mine, pipes = Share(), []
        with ends() as (client, inner, outer, origin):
            work = asyncio.ensure_future(relay(inner, outer, Traffic(now()), mine))
            for piece in (bytes(48 << 10), b"x"):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        inner.send(bytes(4 << 10))  # the client's side is full
                origin.send(piece)
                while mine.held < min(len(piece), BULK):
                    await asyncio.sleep(0)
                while mine.held:
                    with contextlib.suppress(BlockingIOError):
                        client.recv(1 << 20)
                    await asyncio.sleep(0)
                pipes.append(mine.slots)
            work.cancel()
            await asyncio.wait({work})
            return pipes

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == [splice.SLOTS, 0]


def test_what_nobody_takes_is_held_and_a_cut_gives_all_back() -> None:
    async def main() -> int:
        mine = Share()
        with ends() as (client, inner, outer, origin):
            work = asyncio.ensure_future(relay(inner, outer, Traffic(now()), mine))
            while not (mine.held and mine.slots):
                with contextlib.suppress(BlockingIOError):
                    origin.send(bytes(1 << 20))
                if mine.held and not mine.slots:
                    # The piece before was too small to keep the pipe.
                    with contextlib.suppress(BlockingIOError):
                        client.recv(1 << 20)
                await asyncio.sleep(0)
            work.cancel()
            await asyncio.wait({work})
            return mine.held + mine.slots

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == 0


@pytest.mark.parametrize("least", (1 << 10, 1 << 30), ids=("pipes", "no pipe"))
def test_urgent_data_stops_nobody(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """splice(2) does not go past it, and the loop would ask for ever."""
    monkeypatch.setattr("serai.gate.connections.relay.BULK", least)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with ends() as (client, inner, outer, origin):
            work = asyncio.ensure_future(relay(inner, outer, Traffic(now()), Share()))
            whole = b""
            for _ in range(4):
                await loop.sock_sendall(origin, bytes(LONG // 16))
                whole += await read(client, LONG // 16)
                origin.send(b"!", socket.MSG_OOB)
            await loop.sock_sendall(origin, b"the end")
            origin.shutdown(socket.SHUT_WR)
            whole += await read(client)
            work.cancel()
            await asyncio.wait({work})
            return whole

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == bytes(LONG // 4) + b"the end"


def test_a_bounded_way_takes_no_byte_too_many_and_tells_how_many_are_missing() -> None:
    async def main() -> tuple[int, bytes, bytes, int]:
        loop = asyncio.get_running_loop()
        with ends() as (client, inner, outer, origin):
            noted: list[int] = []
            sends = asyncio.ensure_future(loop.sock_sendall(origin, bytes(LONG) + b"next"))
            reads = asyncio.ensure_future(read(client, LONG))
            missing = await carry(outer, inner, LONG, Share(), noted.append)
            await sends
            rest, got = outer.recv(100), await reads
            assert sum(noted) == LONG
            origin.shutdown(socket.SHUT_WR)
            return missing, got, rest, await carry(outer, inner, 7, Share(), noted.append)

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == (0, bytes(LONG), b"next", 7)


def test_a_session_has_few_slots_and_so_have_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "ALL", splice.EACH_SESSION + splice.SLOTS)
    blue, red = Share(), Share()
    pipes = [Pipe.take(blue) for _ in range(splice.EACH_SESSION // splice.SLOTS)]
    assert Pipe.take(blue) is None
    pipes.append(Pipe.take(red))
    assert Pipe.take(red) is None
    for pipe in pipes:
        assert pipe is not None
        pipe.close()
    assert (blue.slots, red.slots) == (0, 0)


def test_who_is_alone_has_one_large_pipe_and_fewer_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "ALONE", 0.0)
    mine = Share()
    mine.begin()
    pipes = []
    while (pipe := Pipe.take(mine)) is not None:
        pipes.append(pipe)
    small = (splice.EACH_SESSION - splice.LARGE) // splice.SLOTS
    assert [pipe.size for pipe in pipes] == [1 << 20] + small * [256 << 10]
    for pipe in pipes:
        pipe.close()
    assert mine.slots == 0


def test_a_few_clients_of_a_session_may_leave_more_unread() -> None:
    mine, pairs = Share(), [socket.socketpair() for _ in range(splice.ROOMY + 1)]
    with ExitStack() as stack:
        for sock in itertools.chain(*pairs):
            stack.enter_context(sock)
        usual = sent_buffer(pairs[0][0])
        for sock, _ in pairs:
            for _ in range(2):
                splice.make_room(sock, mine)
        sizes = [sent_buffer(sock) for sock, _ in pairs]
        assert min(sizes[:-1]) > usual
        assert sizes[-1] == usual
        with socket.socket() as sock:
            usual = sent_buffer(sock)
            splice.make_room(sock, Share())
            assert sent_buffer(sock) == usual, "the kernel sees to that of TCP itself"
    del sock, pairs
    gc.collect()
    assert not mine.roomy


def sent_buffer(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_without_descriptors_there_is_no_pipe_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", fails)
    assert Pipe.take(Share()) is None
