"""The end of JSON-RPC that answers: a connection for each client, and methods by name.

Lines come in, with descriptors; lines go out, with back-pressure. A method's parameters are a
dataclass, which is their schema.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from serai.common import jsonrpc, sockets, tables
from serai.common.errors import (
    INTERNAL,
    INVALID_PARAMS,
    NOT_PERMITTED,
    TOO_LARGE,
    UNKNOWN_METHOD,
    SeraiError,
)
from serai.common.jsonrpc import LONGEST_ANSWER, MAX_LINE, Request

log = logging.getLogger("serai")

# socket(7); Python has no name for it. The group list that the peer had when it connected.
SO_PEERGROUPS = 59
MAX_DESCRIPTORS = 3
CHUNK = 65536
# Above the first a stream waits; to a client that lets the second pile up nothing more is sent, and
# it is dropped. One answer may be larger.
HIGH_WATER = 256 << 10
MAX_QUEUED = 16 << 20
MOST_LINES = 32
"""Messages of one client that are taken in a turn of the loop, so that others have theirs."""
MAX_CLIENTS = 512
MAX_PENDING = 64


class Connection:
    """Reads until the client hangs up; ``received`` gets each line, ``lost`` is called once.

    ``drained`` is set while the client reads enough of what is sent, and when it is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Connection, bytes], None],
        lost: Callable[[Connection], None],
        longest: int = MAX_LINE,
    ) -> None:
        self.pid, self.uid, _ = credentials(sock)
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._sock = sock
        self._received = received
        self._lost = lost
        self._longest = longest
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._queue: deque[tuple[bytes | memoryview, Sequence[int]]] = deque()
        self._queued = 0
        self.drained = asyncio.Event()
        self.drained.set()
        self._loop = loop
        sock.setblocking(False)
        loop.add_reader(sock, self._read)

    def take_descriptors(self) -> list[int]:
        """The descriptors that came with the current message; now the caller's to close."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def send(self, line: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a line now or as soon as the client reads; it is dropped if it never does."""
        if self.gone.done():
            close(descriptors)
            return
        if self._queued > MAX_QUEUED:
            close(descriptors)
            self.close()
            return
        self._queue.append((line, descriptors))
        self._queued += len(line)
        self._write()
        if self._queued > HIGH_WATER:
            self.drained.clear()

    def close(self) -> None:
        """Drop the client."""
        if self.gone.done():
            return
        self.gone.set_result(None)
        self.drained.set()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        close(self.take_descriptors())
        for _, descriptors in self._queue:
            close(descriptors)
        self._queue.clear()
        self._queued = 0  # what is not sent keeps nobody waiting
        self._sock.close()
        self._lost(self)

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                CHUNK, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors += numbers
        if not data or flags & socket.MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
            self.close()
            return
        self._buffer += data
        self._split()

    def _split(self) -> None:
        for _ in range(MOST_LINES):
            if self.gone.done():
                return
            end = self._buffer.find(b"\n")
            if (end if end >= 0 else len(self._buffer)) > self._longest:
                problem = SeraiError(f"a message has at most {self._longest} bytes", code=TOO_LARGE)
                self.send(jsonrpc.error(None, problem))
                self.close()
                return
            if end < 0:
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line.strip():
                self._received(self, line)
            # Descriptors go with the message they came with, or with none.
            close(self.take_descriptors())
        if not self.gone.done():
            self._loop.remove_reader(self._sock)
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take what has come and waits for its turn, and only then more."""
        if not self.gone.done():
            self._loop.add_reader(self._sock, self._read)
            self._split()

    def _write(self) -> None:
        while self._queue:
            line, descriptors = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                sent = self._sock.sendmsg([line], rights if descriptors else [])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError:
                self.close()
                return
            close(descriptors)
            self._queued -= sent
            if sent < len(line):
                self._queue[0] = (memoryview(line)[sent:], ())
            else:
                self._queue.popleft()
            if self._queued <= HIGH_WATER:
                self.drained.set()
        self._loop.remove_writer(self._sock)


Handler = Callable[[Connection, Request, Any], Any]
"""Returns the answer, or what is awaited for it."""
Methods = Mapping[str, tuple[type, Handler]]


@dataclass(frozen=True)
class Nothing:
    """A method without parameters."""


@dataclass(frozen=True)
class Name:
    """The session that is meant."""

    name: str


class Subscribers:
    """Clients that asked to be told of what happens."""

    def __init__(self) -> None:
        self._clients: set[Connection] = set()
        self._there = asyncio.Event()

    def __len__(self) -> int:
        return len(self._clients)

    async def wait(self) -> None:
        """Return as soon as there is one."""
        await self._there.wait()

    def add(self, client: Connection) -> None:
        """From now on tell this client, as long as it is there."""
        self._clients.add(client)
        self._there.set()
        client.gone.add_done_callback(lambda _: self._drop(client))

    def _drop(self, client: Connection) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._there.clear()

    def announce(self, event: str, params: dict[str, Any]) -> None:
        """Tell every subscriber."""
        line = jsonrpc.notification(event, params)
        for client in list(self._clients):
            client.send(line)


class Server:
    """Accepts clients and carries out what they ask for; ``name`` is what messages call it.

    ``refusal`` says why a client may not ask anything, '' if it may. Only the methods in
    ``with_descriptors`` get those that come with their requests. Those in ``at_once`` have nothing
    to wait for: however many others are under way, they are carried out in the order they come.
    """

    def __init__(
        self,
        listener: socket.socket,
        methods: Methods,
        name: str,
        refusal: Callable[[socket.socket], str],
        *,
        with_descriptors: Collection[str] = (),
        at_once: Collection[str] = (),
        most_clients: int = MAX_CLIENTS,
        longest: int = MAX_LINE,
    ) -> None:
        self._listener = listener
        self._methods = methods
        self._name = name
        self._refusal = refusal
        self._with_descriptors = with_descriptors
        self._at_once = at_once
        self._most_clients = most_clients
        self._longest = longest
        self._clients: set[Connection] = set()
        self._pending: dict[Connection, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._watch()

    async def close(self) -> None:
        """Drop every client; what they asked for and wait for is cut short."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for client in list(self._clients):
            client.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _watch(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        failed = partial(log.warning, "no client accepted: %s")
        if (sock := sockets.accept(self._listener, self._watch, failed)) is None:
            return
        problem = None
        if refusal := self._refusal(sock):
            problem = SeraiError(refusal, code=NOT_PERMITTED)
        elif len(self._clients) >= self._most_clients:
            text = f"there are {self._most_clients} clients already"
            problem = SeraiError(text, "try again later")
        client = Connection(sock, self._received, self._lost, self._longest)
        self._clients.add(client)
        if problem is not None:
            client.send(jsonrpc.error(None, problem))
            client.close()

    def _lost(self, client: Connection) -> None:
        self._clients.discard(client)
        self._pending.pop(client, None)

    def _received(self, client: Connection, line: bytes) -> None:
        try:
            request = jsonrpc.parse(line)
        except SeraiError as error:
            client.send(jsonrpc.error(jsonrpc.request_id(line), error))
            return
        waits = request.method not in self._at_once
        if waits and self._pending.get(client, 0) >= MAX_PENDING:
            problem = SeraiError(f"{MAX_PENDING} requests are under way on this connection")
            client.send(jsonrpc.error(request.id, problem))
            return
        if request.method in self._with_descriptors:
            taken = tuple(client.take_descriptors())
            request = dataclasses.replace(request, descriptors=taken)
        try:
            answer = self._call(client, request)
            if not isinstance(answer, Awaitable):
                _reply(client, request, answer)
                return
        except Exception as error:
            self._refuse(client, request, error)
            return
        self._pending[client] = self._pending.get(client, 0) + 1
        task = asyncio.get_running_loop().create_task(self._answer(client, request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _call(self, client: Connection, request: Request) -> Any:
        try:
            if request.method not in self._methods:
                name = ascii(request.method)[:60]
                known = ", ".join(self._methods)
                raise SeraiError(f"there is no method {name}", f"known: {known}", UNKNOWN_METHOD)
            kind, handler = self._methods[request.method]
            params = _params(kind, request)
        except SeraiError:
            close(request.descriptors)
            raise
        return handler(client, request, params)

    async def _answer(self, client: Connection, request: Request, work: Awaitable[Any]) -> None:
        try:
            _reply(client, request, await work)
        except Exception as error:
            self._refuse(client, request, error)
        finally:
            if client in self._pending:
                self._pending[client] -= 1

    def _refuse(self, client: Connection, request: Request, error: Exception) -> None:
        if not isinstance(error, SeraiError):
            log.error("%s failed", request.method, exc_info=error)
            error = SeraiError(f"{self._name} has a defect", "see its log", INTERNAL)
        if request.reply:
            client.send(jsonrpc.error(request.id, error))


def _reply(client: Connection, request: Request, answer: Any) -> None:
    """Raises SeraiError if no client would take so long an answer."""
    if request.reply:
        line = jsonrpc.result(request.id, answer)
        if len(line) > LONGEST_ANSWER:
            text = f"the answer has {len(line)} bytes, and may have {LONGEST_ANSWER}"
            raise SeraiError(text, "ask for less at once", TOO_LARGE)
        client.send(line)


def _params(kind: type, request: Request) -> Any:
    try:
        return tables.read(kind, request.params, word="parameter")
    except ValueError as error:
        raise SeraiError(str(error), code=INVALID_PARAMS) from None


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """PID, UID and GID of the process at the other end when it connected: unix(7)."""
    size = struct.calcsize("iII")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("iII", raw)
    return pid, uid, gid


def groups(sock: socket.socket) -> set[int]:
    """The peer's supplementary groups when it connected."""
    found = array.array("I")
    found.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024))
    return set(found)


def close(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
