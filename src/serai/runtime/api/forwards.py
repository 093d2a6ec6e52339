"""The methods that carry connections to a port of a session.

The problem. A browser opens many connections at once, and a client has one stream to this daemon.
A connection that nobody reads must hold up no other, and must not fill anybody's memory. So each
connection has windows of its own: see ``serai.common.streams``.

What a client sends for a connection may follow its request to connect at once, and needs no answer.

A forward belongs to the connection of the control socket that asked for it, and to the session as
it runs now: it ends with either. Its streams end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from serai.common import wait
from serai.common.errors import CONFLICT, FAILED, NOT_FOUND, SeraiError
from serai.common.jsonrpc import Request, notification
from serai.common.jsonrpc_server import Connection, Handler
from serai.common.streams import PortStream
from serai.common.tables import setting
from serai.runtime.api.exec import decoded
from serai.runtime.sandbox.dial import Dialler
from serai.runtime.sandbox.enter import Target, open_target
from serai.runtime.sessions.payloads import waking
from serai.runtime.sessions.sessions import Sessions

MOST_FORWARDS = 64
MOST_STREAMS = 256
"""Of one connection of the control socket."""
AT_ONCE = ("forward.data", "forward.taken", "forward.end")


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


@dataclass(eq=False)
class OpenPort:
    """A port that one client may connect to, in the network of the sandbox's PID 1."""

    id: str
    session: str
    uid: int
    port: int
    dialler: Dialler
    closed: asyncio.Future[None]
    streams: dict[int, PortStream] = field(default_factory=dict)


class Forwards:
    """The forwards of all clients."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._count = 0
        self._waking: set[str] = set()
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
        made = OpenPort(
            id=f"{os.getpid()}-{self._count}",
            session=p.name,
            uid=record.uid,
            port=p.port,
            dialler=Dialler(pidfd, p.port),
            closed=closed,
        )
        self._of.setdefault(c, {})[made.id] = made
        self._sessions.keep(self._watch(c, made))
        return {"forward": made.id}

    async def close(self, c: Connection, _r: Request, p: CloseForward) -> Any:
        """End a forward, and its connections."""
        forward = self._forward(c, p.forward)
        if not forward.closed.done():
            forward.closed.set_result(None)
        return {}

    def connect(self, c: Connection, _r: Request, p: Connect) -> Awaitable[Any]:
        """Connect to the port; answers when the connection is there, or refused."""
        forward = self._forward(c, p.forward)
        self._check_stream(c, p.stream)

        def tell(event: str, **params: Any) -> None:
            c.send(notification(f"forward.{event}", {"stream": p.stream, **params}))

        def ended(reset: bool) -> None:  # as PortStream calls it
            del forward.streams[p.stream]
            tell("ended", reset=reset)

        stream = forward.streams[p.stream] = PortStream(tell, ended, c.drained)
        return self._dial(forward, p.stream, stream)

    async def _dial(self, forward: OpenPort, number: int, stream: PortStream) -> Any:
        try:
            await waking.awake(self._sessions, forward.session)  # else nobody could answer
            end = await forward.dialler.dial()
        except BaseException:
            if forward.streams.get(number) is stream:
                del forward.streams[number]
            raise
        stream.begin(end)  # which closes it if the stream has been dropped meanwhile
        return {}

    def data(self, c: Connection, r: Request, p: Data) -> Any:
        """Write to a stream. ``forward.taken`` says when it was taken."""
        stream, forward = self._stream(c, p.stream)
        try:
            stream.feed(decoded(p.data), eof=p.eof)
        except SeraiError:
            if not r.reply:  # else nobody would learn that bytes are missing
                self.end(c, r, End(p.stream))
                c.send(notification("forward.ended", {"stream": p.stream, "reset": True}))
            raise
        if waking.note(self._sessions, forward.session) and forward.session not in self._waking:
            self._waking.add(forward.session)
            self._sessions.keep(self._wake(forward.session))
        return {}

    async def _wake(self, name: str) -> None:
        try:
            with contextlib.suppress(SeraiError):  # it is just ending, and the stream with it
                await waking.wake(self._sessions, name)
        finally:
            self._waking.discard(name)

    def taken(self, c: Connection, _r: Request, p: Taken) -> Any:
        """Let a stream bring as many bytes more."""
        self._stream(c, p.stream)[0].grant(p.bytes)
        return {}

    def end(self, c: Connection, _r: Request, p: End) -> Any:
        """Drop a stream."""
        stream, forward = self._stream(c, p.stream)
        stream.drop()
        del forward.streams[p.stream]
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

    def _stream(self, c: Connection, number: int) -> tuple[PortStream, OpenPort]:
        """A stream, and which port it leads to."""
        for forward in self._of.get(c, {}).values():
            if number in forward.streams:
                return forward.streams[number], forward
        raise SeraiError(f"no stream {number} is open on this connection", code=NOT_FOUND)

    async def _watch(self, c: Connection, forward: OpenPort) -> None:
        """End a forward when its session, its client or the client's wish for it ends."""
        ended = asyncio.create_task(wait.readable(forward.dialler.pidfd))
        try:
            waited = {ended, c.gone, forward.closed}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            reason = f"session {forward.session} has stopped" if ended.done() else ""
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            forward.dialler.close()
            self._of[c].pop(forward.id)
            if not self._of[c]:
                del self._of[c]
            for stream in forward.streams.values():
                stream.drop()
            forward.streams.clear()
        c.send(notification("forward.closed", {"forward": forward.id, "reason": reason}))
