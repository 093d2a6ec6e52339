"""Payloads: commands run in a session, and that nothing of them stays when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.common import wait
from serai.runtime.errors import NO_COMMAND, NOT_EXECUTABLE, SeraiError
from serai.runtime.sandbox import bwrap, cgroups
from serai.runtime.sandbox.enter import Door, Entered, EnterError, Target, enter, load_filters
from serai.runtime.sessions import publish
from serai.runtime.sessions.sessions import Sessions

SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "KILL", "CONT", "STOP", "TSTP")
}
GRACE = 2.0
ENTER_DEADLINE = 3.0
TIMED_OUT = 124  # as timeout(1)


@dataclass(frozen=True, eq=False)
class Payload:
    """A running payload; ``id`` is unique while the daemon runs."""

    id: str
    session: str
    entered: Entered
    cgroup: Path | None
    detached: bool


@dataclass(frozen=True)
class Ended:
    """How a payload ended: ``status`` as a shell gives it (128 + n for signal n)."""

    status: int
    signal: int | None
    timed_out: bool = False


class Payloads:
    """Starts payloads in sessions and waits for them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._filters = load_filters(sessions.paths.filters())
        self._count = 0
        # Without it each payload would begin as a copy of the whole daemon.
        self._door = Door()

    def close(self) -> None:
        """Let no more payloads in."""
        self._door.__exit__()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdio: tuple[int, int, int] | None,
        tty: bool,
        detach: bool,
    ) -> Payload:
        """Run ``argv`` in a session; ``stdio`` stays the caller's. Raises SeraiError."""
        record, running = self._sessions.enterable(name)
        session = publish.description(self._sessions.paths, name, record.uid)
        self._count += 1
        number = f"{os.getpid()}-{self._count}"
        kind = cgroups.DETACHED if detach else cgroups.EXEC
        cgroup = cgroups.make(running.cgroup, kind + number) if running.cgroup else None
        try:
            entered = enter(
                Target(running.init, record.uid, record.uid, cgroup),
                argv,
                {**bwrap.environment(self._sessions.policy, session), **env},
                cwd or str(session.home),
                stdio,
                limits=self._sessions.policy.limits,
                filters=self._filters,
                tty=tty,
                timeout=ENTER_DEADLINE,
                door=self._door,
            )
        except BaseException as error:
            if cgroup is not None:
                with contextlib.suppress(OSError):
                    cgroup.rmdir()
            if isinstance(error, EnterError) and error.stage == "exec" and error.errno:
                error.code = NO_COMMAND if error.errno == errno.ENOENT else NOT_EXECUTABLE
            raise
        return Payload(number, name, entered, cgroup, detach)

    async def finish(
        self, payload: Payload, timeout: float | None, gone: asyncio.Future[None]
    ) -> Ended:
        """Wait for the payload's end, then end what it left behind (unless detached).

        It is made to end after ``timeout`` seconds, or when ``gone``, which tells of its client's
        hang-up, is done.
        """
        ended = asyncio.ensure_future(wait.readable(payload.entered.pidfd))
        try:
            await asyncio.wait({ended, gone}, timeout=timeout, return_when="FIRST_COMPLETED")
            timed_out = not ended.done() and not gone.done()
            if not ended.done():
                await self._make_end(payload, ended, signal.SIGTERM if timed_out else signal.SIGHUP)
            if payload.cgroup is None and not payload.detached:
                # The second best: its group. What left that ends with the session.
                self.send(payload, signal.SIGKILL)
            result = _reap(payload.entered.pid)
        finally:
            ended.cancel()
            os.close(payload.entered.pidfd)
        await self._clear(payload)
        return Ended(TIMED_OUT, result.signal, True) if timed_out else result

    def send(self, payload: Payload, number: signal.Signals) -> None:
        """Send a signal to the payload's process group (its own, as a session's leader)."""
        pid = payload.entered.pid
        # The payload is our child and not reaped yet, so its PID cannot mean anything else.
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    async def _make_end(
        self, payload: Payload, ended: asyncio.Future[None], first: signal.Signals
    ) -> None:
        self.send(payload, first)
        done, _ = await asyncio.wait({ended}, timeout=GRACE)
        if not done:
            if payload.cgroup is not None:
                cgroups.kill(payload.cgroup)
            self.send(payload, signal.SIGKILL)
            await ended

    async def _clear(self, payload: Payload) -> None:
        if payload.cgroup is None:
            return
        if payload.detached:
            with contextlib.suppress(OSError):
                payload.cgroup.rmdir()
            return
        try:
            await cgroups.destroy(payload.cgroup)
        except OSError as error:
            raise SeraiError(f"what the payload left behind is not removed: {error}") from error


def _reap(pid: int) -> Ended:
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Ended(128 + os.WTERMSIG(status), os.WTERMSIG(status))
    return Ended(os.WEXITSTATUS(status), None)
