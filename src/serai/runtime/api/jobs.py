"""The methods for jobs: payloads that belong to their session, not to a connection."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass, field
from typing import Any

from serai.common import wait
from serai.common.errors import INVALID_PARAMS, NOT_FOUND, SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler
from serai.common.tables import setting, unicode
from serai.runtime.api.exec import check_command, decoded
from serai.runtime.sessions.payloads.jobs import Jobs, Work
from serai.runtime.sessions.payloads.payloads import SIGNALS

MOST_READ = 512 << 10


@dataclass(frozen=True)
class Start:
    """A job to start; repeated with the same ``request_id`` it is the same one."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: float | None = None
    stdin: bool = False
    request_id: str | None = setting(None, "the same again: the same job", parse=unicode)


@dataclass(frozen=True)
class Which:
    """Whose jobs; null: all."""

    name: str | None = None


@dataclass(frozen=True)
class One:
    """A job's ID."""

    job: str


@dataclass(frozen=True)
class Read:
    """Output from byte ``offset`` on; if there is none yet, wait for it so many seconds."""

    job: str
    offset: int = setting(0, "bytes", minimum=0)
    limit: int = setting(64 << 10, "bytes", minimum=1, maximum=MOST_READ)
    wait: float = setting(0.0, "seconds", minimum=0)


@dataclass(frozen=True)
class Wait:
    """Null: however long it takes."""

    job: str
    timeout: float | None = setting(None, "seconds", minimum=0)


@dataclass(frozen=True)
class JobSignal:
    """``signal`` is a name without SIG."""

    job: str
    signal: str = "TERM"


@dataclass(frozen=True)
class JobInput:
    """``data`` is base64; ``eof`` closes the job's stdin."""

    job: str
    data: str = ""
    eof: bool = False


class JobMethods:
    """What clients can ask for about jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.table: dict[str, tuple[type, Handler]] = {
            "job.start": (Start, self.start),
            "job.list": (Which, self.all),
            "job.show": (One, self.show),
            "job.read": (Read, self.read),
            "job.wait": (Wait, self.wait),
            "job.signal": (JobSignal, self.signal),
            "job.input": (JobInput, self.input),
        }

    async def start(self, _c: Connection, _r: Request, p: Start) -> Any:
        """Start a job; answers when its command runs."""
        check_command(p.argv, p.env, p.timeout)
        work = Work(p.argv, p.env, p.cwd, p.timeout, p.stdin)
        return await self._jobs.start(p.name, work, p.request_id)

    async def all(self, _c: Connection, _r: Request, p: Which) -> Any:
        """The jobs of a session, or of all."""
        return {"jobs": await self._jobs.all(p.name)}

    async def show(self, _c: Connection, _r: Request, p: One) -> Any:
        """One job."""
        return self._jobs.show(p.job)

    async def read(self, c: Connection, _r: Request, p: Read) -> Any:
        """What it has written. ``next`` is where to go on; at the end ``data`` is empty."""

        def there() -> bool:
            ends = not self._jobs.running(p.job)
            return bool(self._jobs.read(p.job, p.offset, 1)[1]) or ends

        await self._jobs.until(there, p.wait, c.gone)
        # Looked at first: what is written between the two is read with the next call.
        job = self._jobs.show(p.job)
        offset, data = self._jobs.read(p.job, p.offset, p.limit)
        text = base64.b64encode(data).decode()
        return {"job": job, "offset": offset, "data": text, "next": offset + len(data)}

    async def wait(self, c: Connection, _r: Request, p: Wait) -> Any:
        """Answer when it has ended, or after the timeout."""
        await self._jobs.until(lambda: not self._jobs.running(p.job), p.timeout, c.gone)
        return self._jobs.show(p.job)

    async def signal(self, _c: Connection, _r: Request, p: JobSignal) -> Any:
        """Send a signal to its process group."""
        if p.signal not in SIGNALS:
            raise SeraiError(f"signal is one of {', '.join(SIGNALS)}", code=INVALID_PARAMS)
        await self._jobs.signal(p.job, SIGNALS[p.signal])
        return {}

    async def input(self, c: Connection, _r: Request, p: JobInput) -> Any:
        """Write to its stdin; answers when it has been taken, or nobody reads it any more."""
        data = decoded(p.data)
        end = await self._jobs.input(p.job)
        try:
            os.set_blocking(end, False)
            while data and not c.gone.done():
                try:
                    data = data[os.write(end, data) :]
                except BlockingIOError:
                    room = asyncio.ensure_future(wait.writable(end))
                    await asyncio.wait({room, c.gone}, return_when="FIRST_COMPLETED")
                    room.cancel()
                    await asyncio.wait({room})
                except BrokenPipeError:
                    break
        finally:
            os.close(end)
        if p.eof:
            try:
                await self._jobs.end_input(p.job)
            except SeraiError as error:
                if error.code != NOT_FOUND:  # it has ended, maybe because of what it was given
                    raise
        return {}
