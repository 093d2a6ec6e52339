"""The methods that run payloads: exec and what belongs to it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import errno
import fcntl
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from serai.common import linux, wait
from serai.common.errors import GONE, INVALID_PARAMS, NOT_FOUND, SeraiError
from serai.common.jsonrpc import Id, Request, notification
from serai.common.jsonrpc_server import Connection
from serai.common.tables import setting
from serai.runtime.sessions.payloads import waking
from serai.runtime.sessions.payloads.payloads import SIGNALS, Ended, Payload, Payloads
from serai.runtime.sessions.sessions import Sessions

CHUNK = 128 << 10
TEXT = 32 << 10
"""Bytes that are read at once: as they are, and to become base64 in a line."""
STREAMS = ("stream", "bytes")
CHARACTERS = {"minimum": 0, "maximum": 9999}
"""What a terminal may have; 0 says that it is not known: ioctl_tty(2)."""


@dataclass(frozen=True)
class Exec:
    """A command to run."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: float | None = None
    tty: bool = False
    detach: bool = False
    stdio: str = setting(
        "stream",
        "fds: three descriptors come with the message. bytes: as stream, output not in base64",
        choices=("fds", "stream", "bytes", "null"),
    )
    rows: int = field(default=24, metadata=CHARACTERS)
    columns: int = field(default=80, metadata=CHARACTERS)


@dataclass(frozen=True)
class Signal:
    """``signal`` is a name without SIG."""

    exec: str
    signal: str


@dataclass(frozen=True)
class Input:
    """``data`` is base64; ``eof`` closes the payload's stdin."""

    exec: str
    data: str = ""
    eof: bool = False


@dataclass(frozen=True)
class Resize:
    """The size of a terminal in characters."""

    exec: str
    rows: int = field(metadata=CHARACTERS)
    columns: int = field(metadata=CHARACTERS)


@dataclass(eq=False)
class Stream:
    """A payload of one connection: where its input goes, and who may write to it next.

    To ``confirm`` a byte is written when the client has said that the input is complete. With
    ``raw`` its output follows the lines that announce it, as it is.
    """

    payload: Payload
    input: int | None = None
    terminal: int | None = None
    confirm: int | None = None
    raw: bool = False
    is_transfer: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Executions:
    """Payloads, each belonging to the connection that asked for it."""

    def __init__(self, sessions: Sessions, payloads: Payloads) -> None:
        self._sessions = sessions
        self._payloads = payloads
        self._streams: dict[tuple[Connection, str], Stream] = {}

    async def exec(self, c: Connection, r: Request, p: Exec) -> Any:
        """Run a command in a session; answers when it has ended (with detach: when it runs)."""
        descriptors = list(r.descriptors)
        try:
            self._check(p, len(descriptors))
            await asyncio.sleep(0)  # by then it is known whether the client has hung up already
            if c.gone.done() and not p.detach:
                raise SeraiError("the client has hung up", code=GONE)
            stream, ours = await self._start(c, r.id, p, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if p.detach:
            key = (c, stream.payload.id)
            self._streams[key] = stream
            work = self._payloads.finish(stream.payload, p.timeout, asyncio.Future())
            self._sessions.keep(self._finish_detached(key, work))
            return {"exec": stream.payload.id, "pid": stream.payload.entered.pid}
        patience = None if stream.payload.cgroup else 1.0
        # At a terminal is somebody who can type.
        waits = contextlib.nullcontext() if p.tty else self._sessions.uses.awaited(p.name)
        with waits:
            result = await self.follow(c, stream, ours, p.timeout, patience)
        return dataclasses.asdict(result)

    async def follow(
        self,
        c: Connection,
        stream: Stream,
        ours: list[tuple[int, str]],
        timeout: float | None,
        patience: float | None,
    ) -> Ended:
        """Carry a payload's bytes until it has ended, and what it wrote ``patience`` s longer."""
        key = (c, stream.payload.id)
        self._streams[key] = stream
        pumps = [_pumping(c, stream, *each) for each in ours]
        try:
            result = await self._payloads.finish(stream.payload, timeout, c.gone)
            if pumps:
                await asyncio.wait(pumps, timeout=patience)
        finally:
            for pump in pumps:
                pump.cancel()
            self._drop(key)
        return result

    async def signal(self, c: Connection, _r: Request, p: Signal) -> Any:
        """Send a signal to a payload of this connection."""
        if p.signal not in SIGNALS:
            raise SeraiError(f"signal is one of {', '.join(SIGNALS)}", code=INVALID_PARAMS)
        payload = self._stream(c, p.exec).payload
        await waking.traffic(self._sessions, payload.session)
        self._payloads.send(payload, SIGNALS[p.signal])
        return {}

    async def input(self, c: Connection, _r: Request, p: Input) -> Any:
        """Write to a streamed payload's stdin; answers when it has been taken."""
        stream = self._stream(c, p.exec)
        data = decoded(p.data)
        if not stream.is_transfer:  # put wakes it at its beginning, and ls and get do not
            await waking.traffic(self._sessions, stream.payload.session)
        async with stream.writing:
            while data and stream.input is not None:
                try:
                    data = data[os.write(stream.input, data) :]
                except BlockingIOError:
                    await wait.writable(stream.input)
                except OSError:
                    data = b""
            if p.eof and stream.input is not None and stream.input != stream.terminal:
                os.close(stream.input)
                stream.input = None
                if stream.confirm is not None:
                    with contextlib.suppress(BrokenPipeError):  # it has failed, and says so itself
                        os.write(stream.confirm, b".")
        return {}

    async def resize(self, c: Connection, _r: Request, p: Resize) -> Any:
        """Tell a payload with a terminal that its window has another size."""
        stream = self._stream(c, p.exec)
        if stream.terminal is None:
            raise SeraiError("this payload has no terminal here", code=INVALID_PARAMS)
        linux.resize(stream.terminal, p.rows, p.columns)
        return {}

    def _check(self, p: Exec, descriptors: int) -> None:
        check_descriptors(descriptors, 3 if p.stdio == "fds" and not p.tty else 0)
        check_command(p.argv, p.env, p.timeout)
        if p.detach and (p.tty or p.stdio in STREAMS):
            raise SeraiError("detach goes with stdio fds or null, no tty", code=INVALID_PARAMS)

    async def _start(
        self, c: Connection, number: Id, p: Exec, descriptors: list[int]
    ) -> tuple[Stream, list[tuple[int, str]]]:
        """Start the payload; returns it with our ends of what it writes (descriptor, name)."""
        theirs: list[int] = []
        ours: list[int] = []
        stdio: tuple[int, ...] | None = tuple(descriptors)
        try:
            if p.tty:
                stdio = None
            elif p.stdio == "null":
                theirs = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)]
                stdio = (theirs[0],) * 3
            elif p.stdio in STREAMS:
                pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
                theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
                ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
                stdio = tuple(theirs)
            payload = await self._payloads.start(
                p.name,
                p.argv,
                env=p.env,
                cwd=p.cwd,
                stdio=stdio,  # type: ignore[arg-type]  # three, as checked
                tty=(p.rows, p.columns) if p.tty else None,
                detach=p.detach,
            )
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        news = {"request": number, "exec": payload.id, "pid": payload.entered.pid}
        started = notification("exec.started", news)
        master, raw = payload.entered.pty, p.stdio == "bytes"
        if master is not None and p.stdio == "fds":
            c.send(started, [master])
            return Stream(payload), []
        c.send(started)
        if master is not None:
            os.set_blocking(master, False)
            return Stream(payload, os.dup(master), master, raw=raw), [(master, "stdout")]
        for descriptor in ours:
            os.set_blocking(descriptor, False)
            _widen(descriptor)
        if not ours:
            return Stream(payload), []
        outputs = [(ours[1], "stdout"), (ours[2], "stderr")]
        return Stream(payload, ours[0], raw=raw), outputs

    def _stream(self, c: Connection, number: str) -> Stream:
        stream = self._streams.get((c, number))
        if stream is None:
            raise SeraiError(
                f"no payload {ascii(number)[:60]} runs on this connection", code=NOT_FOUND
            )
        return stream

    def _drop(self, key: tuple[Connection, str]) -> None:
        stream = self._streams.pop(key)
        if stream.input is not None:
            os.close(stream.input)
            stream.input = None
        if stream.confirm is not None:
            os.close(stream.confirm)
            stream.confirm = None

    async def _finish_detached(self, key: tuple[Connection, str], work: Awaitable[Any]) -> None:
        try:
            await work
        finally:
            self._drop(key)


def check_command(argv: list[str], env: dict[str, str], timeout: float | None) -> None:
    """Raise SeraiError unless that can be run at all."""
    if not argv or not argv[0]:
        raise SeraiError("argv names no command", code=INVALID_PARAMS)
    if any(not key or "=" in key for key in env):
        raise SeraiError("a variable's name is not empty and has no '='", code=INVALID_PARAMS)
    if timeout is not None and timeout <= 0:
        raise SeraiError("timeout is a number of seconds above 0", code=INVALID_PARAMS)


def decoded(data: str) -> bytes:
    """The bytes of a payload's input. Raises SeraiError."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise SeraiError("'data' must be base64", code=INVALID_PARAMS) from None


def check_descriptors(given: int, wanted: int) -> None:
    """Raise SeraiError unless as many came with a message as belong to it."""
    if given == wanted:
        return
    hint = "a forwarded socket (ssh -L) carries none: use stdio 'stream', as Client.exec does"
    raise SeraiError(
        f"{wanted} descriptors belong to this message, not {given}",
        "" if given else hint,
        INVALID_PARAMS,
    )


def _pumping(c: Connection, stream: Stream, descriptor: int, name: str) -> asyncio.Task[None]:
    """A task that pumps, after which the descriptor is closed."""
    task = asyncio.create_task(_pump(c, stream, descriptor, name))
    # Not in the coroutine: one that is cancelled before its first step never comes to its end.
    task.add_done_callback(lambda _: os.close(descriptor))
    return task


async def _pump(c: Connection, stream: Stream, descriptor: int, name: str) -> None:
    """Send what a payload writes to its client, no faster than that reads."""
    while True:
        try:
            data = os.read(descriptor, CHUNK if stream.raw else TEXT)
        except BlockingIOError:
            await wait.readable(descriptor)
            continue
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal's other end is closed
                return
            raise
        if not data:
            return
        c.send(output(stream.payload.id, name, data, raw=stream.raw))
        await c.drained.wait()


def _widen(descriptor: int) -> None:
    """Let a pipe hold more than 64 KiB, so that its writer is woken less often; fcntl(2)."""
    with contextlib.suppress(OSError):  # EPERM: this user's pipes hold enough already
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, CHUNK)


def output(number: str, name: str, data: bytes, *, raw: bool) -> bytes:
    """The notification that a payload wrote something; ``raw``: with the bytes behind its line."""
    news: dict[str, Any] = {"exec": number, "stream": name}
    if raw:
        return notification("exec.output", {**news, "size": len(data)}) + data
    return notification("exec.output", {**news, "data": base64.b64encode(data).decode()})
