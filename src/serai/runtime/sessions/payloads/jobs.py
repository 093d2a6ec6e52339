"""Jobs: payloads that belong to their session, and are found again from any connection.

Nothing of a job is in this process. What it is, what it wrote and how it ended are files below
``.serai/jobs/UID/ID`` on the sessions disk; who runs it is the session's holder (``holder``). So
the daemon can be killed at any time, and a thousand jobs take none of its memory.

    job.json   what was asked; made first. It keeps a request that is repeated from running twice
    log        the output (``job_log``); locked for as long as the job runs, or is being started
    begun      made by the holder before the command can run, as large as a status
    status     how it ended, which the holder makes of ``begun`` before the lock goes

Without a status and without a lock, the holder was killed: the session was stopped, or the VM. If
it has not even begun, the daemon was, and the request may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from serai.common import files
from serai.common.errors import CONFLICT, INVALID_PARAMS, NO_ROOM, NOT_FOUND, SeraiError
from serai.runtime.sandbox import holder, job_log
from serai.runtime.sessions.payloads import waking
from serai.runtime.sessions.payloads.holders import Holders
from serai.runtime.sessions.payloads.payloads import Payloads
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.supervising.supervisor import Running

log = logging.getLogger(__name__)
MOST = 1000
"""Jobs of a session that are kept. The oldest that have ended go first."""
MOST_LISTED = 1024
"""Characters of a command in a list of jobs."""
ID = re.compile(r"[0-9a-f]{12}")
BOOT = Path("/proc/sys/kernel/random/boot_id")
NOT_STARTED = "not started"
PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds


@dataclass(frozen=True)
class Work:
    """What a job does. Without ``stdin`` its input is empty; with it, it stays open."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: float | None = None
    stdin: bool = False


class Jobs:
    """The jobs of all sessions."""

    def __init__(self, sessions: Sessions, payloads: Payloads) -> None:
        self._sessions = sessions
        self._payloads = payloads
        self._holders = Holders(sessions)
        self._starting: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def start(self, name: str, work: Work, request_id: str | None) -> dict[str, Any]:
        """Start a job; with the ``request_id`` of another one, return that. Raises SeraiError."""
        record, running = await waking.awake(self._sessions, name)
        asked = json.dumps(dataclasses.asdict(work), sort_keys=True)
        fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        source = os.urandom(16) if request_id is None else request_id.encode()
        job = hashlib.sha256(source).hexdigest()[:12]
        async with self._starting.setdefault(record.uid, asyncio.Lock()):
            folder = self._folder(record, job)
            with contextlib.suppress(FileNotFoundError):
                if _read(folder / "job.json")["request"] != fingerprint:
                    text = f"the request ID {request_id!r} was used for another job"
                    raise SeraiError(text, code=CONFLICT)
                shown = self._shown(record, job)
                if shown["reason"] != NOT_STARTED:
                    return shown
            shutil.rmtree(folder, ignore_errors=True)
            told = {"argv": work.argv, "started_at": time.time(), "request": fingerprint}
            told.update(boot=BOOT.read_text().strip(), main=running.main)
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                await self._make_room(record)
                content = json.dumps(told).encode()
                files.write(folder / "job.json", content, 0o600, durable=False)
                await self._run(record, running, job, work)
            except BaseException as error:
                with contextlib.suppress(SeraiError, OSError):  # if it is there, it is too late
                    await self._holders.signal(record.uid, job, signal.SIGKILL)
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError) and error.errno in (EDQUOT, ENOSPC):
                    text = "a job's files have no room on the sessions disk"
                    raise SeraiError(text, "'serai gc' makes room", NO_ROOM) from error
                raise
        return self._shown(record, job)

    async def _run(self, record: Record, running: Running, job: str, work: Work) -> None:
        folder = self._folder(record, job)
        with contextlib.ExitStack() as stack:

            def kept(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            written = kept(os.open(folder / "log", flags, 0o600))
            os.fchown(written, record.uid, record.uid)  # so that it counts for the session's quota
            fcntl.flock(written, fcntl.LOCK_EX)
            place = kept(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            output, theirs = map(kept, os.pipe2(os.O_CLOEXEC))
            null = kept(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            source, feed = map(kept, os.pipe2(os.O_CLOEXEC)) if work.stdin else (null, null)
            door = self._holders.door(
                record.uid, running, job, work.timeout or 0.0, [written, place, output, feed]
            )
            payload = await self._payloads.start(
                record.name,
                work.argv,
                env=work.env,
                cwd=work.cwd,
                stdio=(source, theirs, theirs),
                tty=None,
                detach=True,
                job=job,
                door=door,
            )
            if payload.entered.listener is not None:
                kept(payload.entered.listener)
                with contextlib.suppress(SeraiError, OSError):  # ended, or refused uncounted
                    await self._holders.hear(record.uid, job, payload.entered.listener)

    async def all(self, name: str | None) -> list[dict[str, Any]]:
        """The jobs of a session, or of all, the newest last. Raises SeraiError.

        Of a long command there is the beginning, so that all of them fit into an answer.
        """
        registry = self._sessions.registry
        found = []
        for record in registry.all() if name is None else [registry.get(name)]:
            for job in self._ids(record):
                with contextlib.suppress(FileNotFoundError):  # removed while others had their turn
                    shown = self._shown(record, job)
                    found.append({**shown, "argv": _beginning(shown["argv"])})
                await asyncio.sleep(0)
        return sorted(found, key=lambda job: float(job["started_at"]))

    def show(self, job: str) -> dict[str, Any]:
        """One job. Raises SeraiError."""
        try:
            return self._shown(*self._named(job))
        except FileNotFoundError:
            raise _unknown(job) from None

    def read(self, job: str, offset: int, most: int) -> tuple[int, bytes]:
        """Output from a byte on, and the number of its first byte: see ``job_log``."""
        record, number = self._named(job)
        with _opened(self._folder(record, number) / "log") as file:
            return job_log.read(file, offset, most)

    async def until(
        self, condition: Callable[[], bool], timeout: float | None, gone: asyncio.Future[None]
    ) -> bool:
        """Wait until the condition holds; false if it is too late, or the client is gone."""
        end = None if timeout is None else time.monotonic() + timeout
        pause = PAUSE
        while not condition():
            if gone.done() or (end is not None and time.monotonic() >= end):
                return False
            await asyncio.sleep(pause if end is None else min(pause, end - time.monotonic()))
            pause = min(pause * 1.3, LONGEST_PAUSE)
        return True

    def running(self, job: str) -> bool:
        """Whether it still runs. Raises SeraiError if there is none."""
        record, number = self._named(job)
        return _runs(self._folder(record, number))

    async def signal(self, job: str, number: int) -> None:
        """Send a signal to a job that runs. Raises SeraiError."""
        record, which = self._named(job)
        await self._holders.signal(await self._alive(record, which), which, number)

    async def input(self, job: str) -> int:
        """A descriptor to write a job's input to, the caller's to close. Raises SeraiError."""
        record, which = self._named(job)
        return await self._holders.input(await self._alive(record, which), which)

    async def end_input(self, job: str) -> None:
        """Close a job's input. Raises SeraiError."""
        record, which = self._named(job)
        await self._holders.end_input(await self._alive(record, which), which)

    async def _alive(self, record: Record, job: str) -> int:
        """The UID of a session that can be asked for the job. Raises SeraiError."""
        await waking.awake(self._sessions, record.name)
        if not self.running(f"{record.name}/{job}"):
            raise SeraiError(f"job {record.name}/{job} has ended", code=NOT_FOUND)
        return record.uid

    def _named(self, text: str) -> tuple[Record, str]:
        name, slash, job = text.partition("/")
        if not slash or not ID.fullmatch(job):
            hint = "'serai jobs' lists them"
            raise SeraiError(f"{ascii(text)[:80]} is no job's ID", hint, INVALID_PARAMS)
        record = self._sessions.registry.get(name)
        if not (self._folder(record, job) / "job.json").exists():
            raise _unknown(text)
        return record, job

    def _folder(self, record: Record, job: str) -> Path:
        return self._sessions.paths.jobs / str(record.uid) / job

    def _ids(self, record: Record) -> list[str]:
        folder = self._sessions.paths.jobs / str(record.uid)
        try:
            return [each.name for each in folder.iterdir() if (each / "job.json").exists()]
        except FileNotFoundError:
            return []

    async def _make_room(self, record: Record) -> None:
        """Forget the oldest jobs that have ended. Raises SeraiError if there is no room."""
        used = quota.usage(self._sessions.paths.sessions, record.uid)
        if used is not None and 0 < used.bytes_limit <= used.bytes:
            text = f"session {record.name} has used up its quota: a job's output has no room"
            raise SeraiError(text, "remove files in the session", NO_ROOM)
        if len(os.listdir(self._folder(record, ""))) <= MOST:  # noqa: PTH208  # made 1,000 times
            return
        ended = [job for job in await self.all(record.name) if job["state"] != "running"]
        if not ended:
            raise SeraiError(f"{MOST} jobs run in session {record.name}", "end some", NO_ROOM)
        for job in ended[: max(MOST // 10, 1)]:
            shutil.rmtree(self._folder(record, job["job"].partition("/")[2]), ignore_errors=True)

    def _shown(self, record: Record, job: str) -> dict[str, Any]:
        """A job as clients see it."""
        folder = self._folder(record, job)
        asked = _read(folder / "job.json")
        with _opened(folder / "log") as file:
            written = job_log.total(file)
        alive = _runs(folder)
        ended: dict[str, Any] = {}
        if not alive:
            # Looked at after the lock: the holder writes it before the lock goes.
            with contextlib.suppress(FileNotFoundError):
                ended = _read(folder / "status")
            if not ended:
                ended["reason"] = self._why_unknown(record, job, asked)
        return {
            "job": f"{record.name}/{job}",
            "argv": asked["argv"],
            "state": "running" if alive else "ended",
            "started_at": asked["started_at"],
            "ended_at": ended.get("ended_at"),
            "status": ended.get("status"),
            "signal": ended.get("signal"),
            "reason": ended.get("reason"),
            "left": ended.get("left", 0),
            "written": written,
            "lost": ended.get("lost", 0),
            "refused": ended.get("refused", []),
        }

    def _why_unknown(self, record: Record, job: str, asked: dict[str, Any]) -> str:
        """Why nobody wrote down how a job ended."""
        if not (self._folder(record, job) / holder.BEGUN).exists():
            return NOT_STARTED
        if asked["boot"] != BOOT.read_text().strip():
            return "VM restarted"
        running = self._sessions.running(record)
        return "lost" if running and running.main == asked["main"] else "session stopped"


def _read(path: Path) -> dict[str, Any]:
    """A file of a job. Raises FileNotFoundError, also if a power cut left it empty."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        raise FileNotFoundError(path) from None
    return found


def _beginning(argv: list[str]) -> list[str]:
    """At most MOST_LISTED characters of a command."""
    found: list[str] = []
    room = MOST_LISTED
    for word in argv:
        if room <= 0:
            break
        found.append(word[:room])
        room -= len(word)
    return found


def _unknown(job: str) -> SeraiError:
    return SeraiError(f"there is no job {job}", "'serai jobs' lists them", NOT_FOUND)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A job's log; an empty file where it is not made yet, or removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _runs(folder: Path) -> bool:
    """Whether the job of this directory still runs, or is being started."""
    return not (folder / "status").exists() and _locked(folder / "log")


def _locked(path: Path) -> bool:
    """Whether a holder holds the lock: flock(2)."""
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
