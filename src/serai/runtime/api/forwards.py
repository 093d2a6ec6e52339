"""The methods that carry connections to a port of a session.

The problem. A browser opens many connections at once, and a client has one stream to this daemon.
A connection that nobody reads must hold up no other, and must not fill anybody's memory.

The idea. Each connection (a *stream*) has a window in each direction: so many bytes may be on their
way until the other end says that it has taken some. Whoever would send more waits, alone.

A forward belongs to the connection of the control socket that asked for it, and to the session as
it runs now: it ends with either. Its streams end with it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from serai.common import wait
from serai.common.errors import CONFLICT, FAILED, NOT_FOUND, TOO_LARGE, SeraiError
from serai.common.jsonrpc import WINDOW, Request, notification
from serai.common.jsonrpc_server import Connection, Handler
from serai.common.tables import setting
from serai.runtime.api.exec import CHUNK, decoded
from serai.runtime.sandbox.dial import dial
from serai.runtime.sandbox.enter import Target, open_target
from serai.runtime.sessions import waking
from serai.runtime.sessions.sessions import Sessions

MOST_FORWARDS = 64
MOST_STREAMS = 256
"""Of one connection of the control socket."""
_RESET = struct.pack("ii", 1, 0)
"""Closing sends a reset: socket(7), SO_LINGER."""


@dataclass(frozen=True)
class OpenForward:
    """A port of a session."""

    name: str
    port: int = field(metadata={"minimum": 1, "maximum": 65535})


@dataclass(frozen=True)
class CloseForward:
    """A forward of this connection."""

    forward: str


@dataclass(frozen=True)
class Connect:
    """``stream`` is the client's number for the connection: what comes from it has that number."""

    forward: str
    stream: int


@dataclass(frozen=True)
class Data:
    """``data`` is base64; ``eof``: nothing follows."""

    stream: int
    data: str = ""
    eof: bool = False


@dataclass(frozen=True)
class Taken:
    """The client has passed on so many bytes."""

    stream: int
    bytes: int = setting(0, "bytes", minimum=0)


@dataclass(frozen=True)
class End:
    """The client's end is gone."""

    stream: int


class PortStream:
    """A connection to a port, and what is on its way to it and from it."""

    def __init__(self, c: Connection, number: int, end: socket.socket) -> None:
        self.task: asyncio.Task[None] | None = None
        self._c = c
        self._number = number
        self._end = end
        self._window = WINDOW  # bytes that the client still takes
        self._granted = asyncio.Event()
        self._input = bytearray()
        self._owed = 0  # bytes of the client's that are not taken yet
        self._eof = False
        self._fed = asyncio.Event()

    def feed(self, data: bytes, *, eof: bool) -> None:
        """Take what the client sends. Raises SeraiError if that is more than it may."""
        if self._owed + len(data) > WINDOW or self._eof:
            raise SeraiError(
                f"at most {WINDOW} bytes are on their way, and none after the last", code=TOO_LARGE
            )
        self._owed += len(data)
        self._input += data
        self._eof = eof
        self._fed.set()

    def grant(self, size: int) -> None:
        """The client has taken so many bytes."""
        self._window = min(self._window + size, WINDOW)
        self._granted.set()

    async def carry(self) -> None:
        """Carry both ways until both have ended, or it fails."""
        both = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        whole = False
        try:
            await asyncio.gather(*both)
            whole = True
        except OSError:
            pass
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            if not whole:
                self._end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._tell("forward.ended", reset=not whole)

    async def _up(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = bytes(self._input)
            self._input.clear()
            try:
                if data:
                    await loop.sock_sendall(self._end, data)
                elif self._eof:
                    self._end.shutdown(socket.SHUT_WR)
            except OSError:
                return  # it takes no more; what it wrote before is still read, and how it ended
            if data:
                self._owed -= len(data)
                self._tell("forward.taken", bytes=len(data))
            elif self._eof:
                return
            else:
                self._fed.clear()
                await self._fed.wait()

    async def _down(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._window:
                self._granted.clear()
                await self._granted.wait()
            data = await loop.sock_recv(self._end, min(CHUNK, self._window))
            self._window -= len(data)
            self._tell("forward.data", data=base64.b64encode(data).decode(), eof=not data)
            if not data:
                return
            await self._c.drained()
            await asyncio.sleep(0)  # the others' turn, however much there is to read

    def _tell(self, event: str, **params: Any) -> None:
        self._c.send(notification(event, {"stream": self._number, **params}))


@dataclass(eq=False)
class OpenPort:
    """A port that one client may connect to. ``pidfd`` is the sandbox's PID 1."""

    id: str
    session: str
    uid: int
    port: int
    pidfd: int
    closed: asyncio.Future[None]
    streams: dict[int, PortStream] = field(default_factory=dict)


class Forwards:
    """The forwards of all clients."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._count = 0
        self._of: dict[Connection, dict[str, OpenPort]] = {}
        self.table: dict[str, tuple[type, Handler]] = {
            "forward.open": (OpenForward, self.open),
            "forward.close": (CloseForward, self.close),
            "forward.connect": (Connect, self.connect),
            "forward.data": (Data, self.data),
            "forward.taken": (Taken, self.taken),
            "forward.end": (End, self.end),
        }

    def shown(self, uid: int) -> list[dict[str, int]]:
        """The forwards that are open to a session, as clients see them."""
        return [
            {"port": each.port, "connections": len(each.streams)}
            for forwards in self._of.values()
            for each in forwards.values()
            if each.uid == uid
        ]

    async def open(self, c: Connection, _r: Request, p: OpenForward) -> Any:
        """Let this connection reach a port of a session, for as long as both are there."""
        record, running = await waking.awake(self._sessions, p.name)
        if len(self._of.get(c, {})) >= MOST_FORWARDS:
            raise SeraiError(f"{MOST_FORWARDS} forwards are open here", "close some", FAILED)
        pidfd = open_target(Target(running.init, record.uid, record.uid))
        self._count += 1
        closed = asyncio.get_running_loop().create_future()
        made = OpenPort(f"{os.getpid()}-{self._count}", p.name, record.uid, p.port, pidfd, closed)
        self._of.setdefault(c, {})[made.id] = made
        self._sessions.keep(self._watch(c, made))
        return {"forward": made.id}

    async def close(self, c: Connection, _r: Request, p: CloseForward) -> Any:
        """End a forward, and its connections."""
        forward = self._forward(c, p.forward)
        if not forward.closed.done():
            forward.closed.set_result(None)
        return {}

    async def connect(self, c: Connection, _r: Request, p: Connect) -> Any:
        """Connect to the port; answers when the connection is there, or refused."""
        forward = self._forward(c, p.forward)
        await waking.awake(self._sessions, forward.session)  # else nobody could answer
        self._check_stream(c, p.stream)
        end = await dial(forward.pidfd, forward.port)
        try:
            self._check_stream(c, p.stream)
            self._forward(c, p.forward)
        except BaseException:
            end.close()
            raise
        stream = forward.streams[p.stream] = PortStream(c, p.stream, end)
        stream.task = self._sessions.keep(stream.carry())

        def done(_: object) -> None:
            # Not in the coroutine: one that is cancelled before its first step never ends it.
            del forward.streams[p.stream]
            end.close()

        stream.task.add_done_callback(done)
        return {}

    async def data(self, c: Connection, _r: Request, p: Data) -> Any:
        """Write to a stream; answers at once. ``forward.taken`` says when it was taken."""
        stream, session = self._stream(c, p.stream)
        stream.feed(decoded(p.data), eof=p.eof)
        await waking.traffic(self._sessions, session)
        return {}

    async def taken(self, c: Connection, _r: Request, p: Taken) -> Any:
        """Let a stream bring as many bytes more."""
        self._stream(c, p.stream)[0].grant(p.bytes)
        return {}

    async def end(self, c: Connection, _r: Request, p: End) -> Any:
        """Drop a stream."""
        task = self._stream(c, p.stream)[0].task
        if task is not None:
            task.cancel()
        return {}

    def _check_stream(self, c: Connection, number: int) -> None:
        there = [each for forward in self._of.get(c, {}).values() for each in forward.streams]
        if number in there:
            raise SeraiError(f"there is a stream {number} already", code=CONFLICT)
        if len(there) >= MOST_STREAMS:
            raise SeraiError(f"{MOST_STREAMS} streams are open here", "end some", FAILED)

    def _forward(self, c: Connection, number: str) -> OpenPort:
        if (found := self._of.get(c, {}).get(number)) is None:
            text = f"no forward {ascii(number)[:60]} is open on this connection"
            raise SeraiError(text, code=NOT_FOUND)
        return found

    def _stream(self, c: Connection, number: int) -> tuple[PortStream, str]:
        """A stream, and whose it is."""
        for forward in self._of.get(c, {}).values():
            if number in forward.streams:
                return forward.streams[number], forward.session
        raise SeraiError(f"no stream {number} is open on this connection", code=NOT_FOUND)

    async def _watch(self, c: Connection, forward: OpenPort) -> None:
        """End a forward when its session, its client or the client's wish for it ends."""
        ended = asyncio.create_task(wait.readable(forward.pidfd))
        try:
            waited = {ended, c.gone, forward.closed}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            reason = f"session {forward.session} has stopped" if ended.done() else ""
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            os.close(forward.pidfd)
            self._of[c].pop(forward.id)
            if not self._of[c]:
                del self._of[c]
            for stream in forward.streams.values():
                if stream.task is not None:
                    stream.task.cancel()
        c.send(notification("forward.closed", {"forward": forward.id, "reason": reason}))
