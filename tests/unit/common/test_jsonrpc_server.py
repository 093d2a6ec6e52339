"""The end that answers, with clients over real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serai.common import jsonrpc, jsonrpc_server, sockets
from serai.common.errors import (
    INTERNAL,
    INVALID_PARAMS,
    NOT_PERMITTED,
    TOO_LARGE,
    UNKNOWN_METHOD,
    SeraiError,
)
from serai.common.jsonrpc import LONGEST_ANSWER, Client
from serai.common.jsonrpc_server import (
    HIGH_WATER,
    MAX_QUEUED,
    MOST_LINES,
    Connection,
    Handler,
    Nothing,
    Server,
    Subscribers,
)


@dataclass(frozen=True)
class Params:
    name: str
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    count: int = 0
    share: float | None = None
    flag: bool = False


async def _echo(_c: Connection, _r: jsonrpc.Request, p: Params) -> Any:
    return vars(p)


async def _refuse(_c: Connection, _r: jsonrpc.Request, _p: Nothing) -> Any:
    raise SeraiError("no", "do this", 7)


async def _break(_c: Connection, _r: jsonrpc.Request, _p: Nothing) -> Any:
    raise ZeroDivisionError


async def _sleep(_c: Connection, _r: jsonrpc.Request, _p: Nothing) -> Any:
    await asyncio.sleep(60)


async def _descriptors(_c: Connection, r: jsonrpc.Request, _p: Nothing) -> Any:
    for descriptor in r.descriptors:
        os.close(descriptor)
    return len(r.descriptors)


async def _much(_c: Connection, _r: jsonrpc.Request, p: Params) -> Any:
    return "x" * p.count


SUBSCRIBERS = Subscribers()


async def _subscribe(c: Connection, _r: jsonrpc.Request, _p: Nothing) -> Any:
    SUBSCRIBERS.add(c)


METHODS: dict[str, tuple[type, Handler]] = {
    "echo": (Params, _echo),
    "refuse": (Nothing, _refuse),
    "break": (Nothing, _break),
    "sleep": (Nothing, _sleep),
    "takes": (Nothing, _descriptors),
    "takes.none": (Nothing, _descriptors),
    "subscribe": (Nothing, _subscribe),
    "much": (Params, _much),
}


class Listener(socket.socket):
    """One whose process has no descriptor left for the first ``full`` clients that it accepts."""

    full = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.full:
            self.full -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@contextmanager
def serving(
    path: Path, refusal: str = "", full: int = 0, **options: Any
) -> Iterator[tuple[Server, Any]]:
    """A server in a thread, and its event loop."""
    listener = Listener(socket.AF_UNIX)
    listener.full = full
    listener.bind(str(path))
    listener.listen(64)
    ready = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        stop = asyncio.Event()
        server = Server(listener, METHODS, "the test", lambda _: refusal, **options)
        found.extend((server, asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        tasks = list(server._tasks)
        for task in tasks:
            task.cancel()
        await server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    server, loop, stop = found
    try:
        yield server, loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_methods_are_called_by_name(path: Path) -> None:
    with serving(path), Client(path, 30) as client:
        given = {"name": "a\udcff", "argv": ["x"], "count": 3, "share": 0.5}
        assert client.call("echo", **given) == {**given, "env": {}, "flag": False}
        assert asyncio.run(jsonrpc.ask(path, "echo", {"name": "b"}))["name"] == "b"


@pytest.mark.parametrize(
    ("method", "code", "says"),
    [
        ("refuse", 7, "no; do this"),
        ("break", INTERNAL, "the test has a defect; see its log"),
        ("none", UNKNOWN_METHOD, "there is no method 'none'; known: echo, "),
    ],
)
def test_what_goes_wrong_has_a_code(path: Path, method: str, code: int, says: str) -> None:
    with serving(path), Client(path, 30) as client:
        with pytest.raises(SeraiError) as caught:
            client.call(method)
        assert caught.value.code == code
        assert says in str(caught.value)
        assert client.call("takes") == 0


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "parameter name is missing"),
        ({"name": 7}, "name must be a text"),
        ({"name": "a\0b"}, "name must be a text"),
        ({"name": "\ud800"}, "name must be a text"),
        ({"name": "a", "x": 1}, "unknown parameter x; known are name, argv"),
        ({"name": "a", "count": True}, "count must be a whole number"),
        ({"name": "a", "count": 1.5}, "count must be a whole number"),
        ({"name": "a", "count": 1 << 63}, "count must be a whole number"),
        ({"name": "a", "share": "1"}, "share must be a number or null, not '1'"),
        ({"name": "a", "argv": "ls"}, "argv must be a list of texts"),
        ({"name": "a", "argv": ["ls", None]}, "argv must be a list of texts"),
        ({"name": "a", "env": {"K": 1}}, "env.K must be a text, not 1"),
        ({"name": "a", "flag": 1}, "flag must be true or false"),
    ],
)
def test_wrong_parameters_are_named(path: Path, params: dict[str, Any], says: str) -> None:
    with serving(path), Client(path, 30) as client:
        with pytest.raises(SeraiError) as caught:
            client.wait(client.ask("echo", params))
        assert caught.value.code == INVALID_PARAMS
        assert says in str(caught.value)


def test_only_methods_that_want_descriptors_get_them(path: Path) -> None:
    with serving(path, with_descriptors={"takes"}), Client(path, 30) as client:
        for method, number in (("takes", 2), ("takes.none", 0)):
            assert client.wait(client.ask(method, {}, [0, 1])) == number


def test_subscribers_are_told(path: Path) -> None:
    with serving(path) as (_, loop), Client(path, 30) as one, Client(path, 30) as other:
        one.call("subscribe")
        loop.call_soon_threadsafe(SUBSCRIBERS.announce, "news", {"a": 1})
        assert one.message() == {"jsonrpc": "2.0", "method": "news", "params": {"a": 1}}
        assert other.call("takes") == 0
        assert other._events == []
    assert not SUBSCRIBERS._clients, "one that is gone is still told"


def test_who_may_not_ask_is_told_and_dropped(path: Path) -> None:
    with serving(path, "not you"), Client(path, 30) as client:
        with pytest.raises(SeraiError) as caught:
            client.wait(1)
        assert (caught.value.message, caught.value.code) == ("not you", NOT_PERMITTED)
        with pytest.raises(SeraiError, match="hung up"):
            client.message()


def test_too_many_clients_requests_and_bytes_are_refused(path: Path) -> None:
    with serving(path, most_clients=2, longest=1000), Client(path, 30) as client:
        with Client(path, 30) as other:
            assert other.call("takes") == 0
            with Client(path, 30) as third, pytest.raises(SeraiError, match="2 clients already"):
                third.wait(1)
            with pytest.raises(SeraiError, match="at most 1000 bytes") as caught:
                other.call("echo", name="x" * 1000)
            assert caught.value.code == TOO_LARGE
        for _ in range(jsonrpc_server.MAX_PENDING):
            client.ask("sleep", {})
        with pytest.raises(SeraiError, match="64 requests are under way"):
            client.call("takes")


def test_a_server_without_descriptors_waits_before_it_accepts_again(path: Path) -> None:
    begun = time.monotonic()
    with serving(path, full=2), Client(path, 30) as client:
        assert client.call("takes") == 0
        assert time.monotonic() - begun > sockets.PAUSE


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
        await asyncio.wait_for(client.drained.wait(), 10)

    asyncio.run(talk())


def test_a_long_answer_arrives_and_one_that_nobody_takes_is_refused(path: Path) -> None:
    with serving(path), Client(path, 30) as client:
        assert len(client.call("much", name="a", count=MAX_QUEUED * 2)) == MAX_QUEUED * 2
        with pytest.raises(SeraiError, match="ask for less") as caught:
            client.call("much", name="a", count=LONGEST_ANSWER)
        assert caught.value.code == TOO_LARGE
        assert client.call("takes") == 0, "the connection is as it was"


def test_who_reads_no_answer_has_no_second_one_kept() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        client = Connection(ours, lambda *_: None, lambda _: None)
        with theirs:
            client.send(bytes(MAX_QUEUED * 2))
            assert not client.gone.done()
            client.send(b"x")
            assert client.gone.done()

    asyncio.run(talk())


def test_many_messages_at_once_leave_others_their_turn() -> None:
    taken: list[int] = []  # in which turn each was taken
    turn = 0

    async def talk() -> None:
        nonlocal turn
        ours, theirs = socket.socketpair()
        lost: list[Connection] = []
        Connection(ours, lambda *_: taken.append(turn), lost.append)
        with theirs:
            theirs.sendall(b"1\n" * 1000)
        while not lost and turn < 1000:
            turn += 1
            await asyncio.sleep(0)

    asyncio.run(talk())
    assert len(taken) == 1000
    assert max(map(taken.count, taken)) <= MOST_LINES
