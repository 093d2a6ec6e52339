"""The holders of sessions' jobs, as sessiond starts and asks them."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.common import wait
from serai.common.errors import NOT_FOUND, TIMEOUT, SeraiError
from serai.runtime.sandbox import cgroups, holder, usher
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.supervising.supervisor import Running

DEADLINE = 3.0  # seconds in which a holder answers, unless its session hinders it
CGROUP = "holder"
BACKLOG = 128


@dataclass(frozen=True)
class JobDoor:
    """A way into a session like ``enter.Door``: what enters by it is the holder's child."""

    holders: Holders
    uid: int
    running: Running
    job: str
    timeout: float
    own: Sequence[int]
    ours = False

    def admit(self, plan: usher.Plan, fds: Sequence[int]) -> None:
        """As usher.admit()."""
        cgroup = self.running.cgroup
        path = "" if cgroup is None else str(cgroup / (cgroups.JOB + self.job))
        request = (self.job, path, self.timeout, tuple(plan))  # holder.Request
        with open(os.memfd_create("plan"), "wb") as file:  # noqa: PTH123  # a descriptor
            file.write(marshal.dumps(request))
            file.flush()
            descriptors = [file.fileno(), *self.own, *fds]
            with self.holders.connected(self.uid, self.running) as connection:
                socket.send_fds(connection, [holder.START], descriptors)


class Holders:
    """One for each session that has jobs, by UID; an answer is waited for without blocking."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def door(
        self, uid: int, running: Running, job: str, timeout: float, own: Sequence[int]
    ) -> JobDoor:
        """A way in for a job; ``own`` are the log, the directory, the output and the input."""
        return JobDoor(self, uid, running, job, timeout, own)

    async def signal(self, uid: int, job: str, number: int) -> None:
        """Send a signal to a job. Raises SeraiError."""
        await self._ask(uid, holder.SIGNAL + bytes([number]) + job.encode(), job)

    async def input(self, uid: int, job: str) -> int:
        """A descriptor of the job's input, the caller's to close. Raises SeraiError."""
        found = await self._ask(uid, holder.INPUT + job.encode(), job)
        if not found:
            raise SeraiError(f"the input of job {job} is closed", code=NOT_FOUND)
        return found[0]

    async def hear(self, uid: int, job: str, listener: int) -> None:
        """Have the holder answer what the kernel asks about the job's calls. Raises SeraiError."""
        await self._ask(uid, holder.HEAR + job.encode(), job, listener)

    async def end_input(self, uid: int, job: str) -> None:
        """Close the job's input. Raises SeraiError."""
        await self._ask(uid, holder.END_INPUT + job.encode(), job)

    @contextlib.contextmanager
    def connected(self, uid: int, running: Running | None) -> Iterator[socket.socket]:
        """A connection to a session's holder, which is started if it does not run."""
        folder = self._sessions.paths.holders
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{uid}-{holder.PROTOCOL}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(DEADLINE)
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                if running is None:
                    raise SeraiError("the session's jobs have ended", code=NOT_FOUND) from None
                self._start(path, running)
                connection.connect(str(path))
            except BlockingIOError:  # its queue is full: its session keeps it from working
                text = "the session's jobs do not answer"
                raise SeraiError(text, "try again", TIMEOUT) from None
            yield connection

    def _start(self, path: Path, running: Running) -> None:
        # Not in the daemon's cgroup, which is killed with it; and counted to the session.
        own = str(cgroups.make(running.cgroup, CGROUP)) if running.cgroup else ""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(BACKLOG)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", holder.__file__, str(listener.fileno()), own],
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env={},
            )
        self._sessions.keep(_reaped(process))

    async def _ask(self, uid: int, message: bytes, job: str, *given: int) -> list[int]:
        """Ask about a job; returns the descriptors of the answer. Raises SeraiError."""
        with self.connected(uid, None) as connection:
            socket.send_fds(connection, [message], given) if given else connection.send(message)
            connection.setblocking(False)
            try:
                await asyncio.wait_for(wait.readable(connection.fileno()), DEADLINE)
                answer, fds, _, _ = socket.recv_fds(connection, 1, 1)
            except asyncio.TimeoutError:
                raise SeraiError(f"job {job} does not answer", "try again", TIMEOUT) from None
        if answer != holder.DONE:
            what = "has no open input" if message[:1] != holder.SIGNAL else "has ended"
            raise SeraiError(f"job {job} {what}", code=NOT_FOUND)
        return list(fds)


async def _reaped(process: subprocess.Popen[bytes]) -> None:
    await wait.exited(process.pid)
    process.wait()
