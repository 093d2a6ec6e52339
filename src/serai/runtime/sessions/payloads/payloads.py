"""Payloads: commands run in a session, and that nothing of them stays when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serai.common import wait
from serai.common.errors import NO_COMMAND, NOT_EXECUTABLE, TIMEOUT, SeraiError
from serai.common.sandboxes import SANDBOXES
from serai.runtime.sandbox import bwrap, cgroups, reaper
from serai.runtime.sandbox.enter import (
    KILLED,
    Admits,
    Arrival,
    Door,
    Entered,
    EnterError,
    Target,
    begin,
    load_filters,
)
from serai.runtime.sandbox.refusals import SHARE, Refused
from serai.runtime.sessions import own
from serai.runtime.sessions.payloads import given, waking
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps import publish

SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "KILL", "CONT", "STOP", "TSTP")
}
GRACE = 2.0
ENTER_DEADLINE = 3.0
SWEEP = 0.1
TIMED_OUT = 124  # as timeout(1)


@dataclass(frozen=True, eq=False)
class Payload:
    """A running payload; ``id`` is unique while the daemon runs.

    ``killed`` processes of the session had been killed for want of memory when it was started.
    ``grace`` is the time in which it ends when it is told to, in seconds.
    """

    id: str
    session: str
    entered: Entered
    cgroup: Path | None
    detached: bool
    killed: int = 0
    refused: Refused = field(default_factory=Refused)
    grace: float = field(default_factory=lambda: GRACE)


@dataclass(frozen=True)
class Ended:
    """How a payload ended: ``status`` as a shell gives it (128 + n for signal n).

    ``out_of_memory``: while it ran, the kernel killed a process of the session for want of memory.
    ``left``: how many processes it left running, which were ended with it. ``refused``: as
    ``Refused.told``.
    """

    status: int
    signal: int | None
    timed_out: bool = False
    out_of_memory: bool = False
    left: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)


class Payloads:
    """Starts payloads in sessions and waits for them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        folder = sessions.paths.filters()
        self._filters = {each: load_filters(folder, each) for each in SANDBOXES}
        self._count = 0
        # Without it each payload would begin as a copy of the whole daemon.
        self._door = Door()
        self._alive: set[Entered] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._pause = SWEEP
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._sweep_soon)
        # A payload that is stopped and goes on for ever makes more of them than are read.
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)

    def close(self) -> None:
        """Let no more payloads in."""
        self._door.__exit__()

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdio: tuple[int, int, int] | None,
        tty: tuple[int, int] | None,
        detach: bool,
        job: str = "",
        door: Admits | None = None,
    ) -> Payload:
        """Run ``argv`` in a session; ``stdio`` stays the caller's. Raises SeraiError.

        A ``job`` enters by a ``door`` of its own, and is not this process's child; what the kernel
        asks about its calls is its caller's to answer.
        """
        record, running = await waking.awake(self._sessions, name)
        session = publish.description(self._sessions.paths, name, record.uid)
        rules = own.effective(self._sessions.settings, record.own)
        self._count += 1
        number = job or f"{os.getpid()}-{self._count}"
        kind = cgroups.JOB if job else cgroups.DETACHED if detach else cgroups.EXEC
        cgroup = cgroups.make(running.cgroup, kind + number) if running.cgroup else None
        killed = cgroups.out_of_memory(running.cgroup) if running.cgroup else 0
        try:
            arrival = begin(
                Target(running.init, record.uid, record.uid, cgroup),
                argv,
                {
                    **bwrap.environment(rules, session),
                    **given.environment(self._sessions.paths, name),
                    **record.own.env,
                    **env,
                },
                cwd or str(session.home),
                stdio,
                limits=self._sessions.settings.limits,
                filters=self._filters[record.own.sandbox],
                tty=tty,
                door=door or self._door,
            )
            with self._sessions.uses.awaited(name):  # it would not arrive if that froze meanwhile
                entered = await self._arrived(arrival)
        except BaseException as error:
            if cgroup is not None:
                with contextlib.suppress(OSError, SeraiError):
                    await cgroups.destroy(cgroup)
            if isinstance(error, EnterError) and error.stage == "exec" and error.errno:
                error.code = NO_COMMAND if error.errno == errno.ENOENT else NOT_EXECUTABLE
            raise
        payload = Payload(number, name, entered, cgroup, detach, killed)
        if entered.listener is not None and not job:
            running.hearing.add(entered.listener, payload.refused)
        return payload

    async def _arrived(self, arrival: Arrival) -> Entered:
        """Wait for exec. Whoever is inside can delay it, so nothing else waits meanwhile."""
        try:
            await asyncio.wait_for(_read(arrival), ENTER_DEADLINE)
            return arrival.entered()
        except asyncio.TimeoutError:
            if arrival.read():  # the whole VM stood still: it is known by now
                return arrival.entered()
            raise arrival.late() from None
        finally:
            if stray := arrival.close():
                await asyncio.wait({self._sessions.keep(self._take(stray))}, timeout=KILLED)

    async def finish(
        self, payload: Payload, timeout: float | None, gone: asyncio.Future[None]
    ) -> Ended:
        """Wait for the payload's end, then end what it left behind (unless detached).

        It is made to end after ``timeout`` seconds, or when ``gone``, which tells of its client's
        hang-up, is done.
        """
        ended = asyncio.ensure_future(self._ended(payload.entered))
        try:
            await asyncio.wait({ended, gone}, timeout=timeout, return_when="FIRST_COMPLETED")
            timed_out = not ended.done() and not gone.done()
            if not ended.done():
                await self._make_end(payload, ended, signal.SIGTERM if timed_out else signal.SIGHUP)
            if payload.cgroup is None and not payload.detached:
                # The second best: its group. What left that ends with the session.
                self.send(payload, signal.SIGKILL)
            if not ended.done():
                # It waits for something that no signal ends, such as a disk.
                self._sessions.keep(
                    self._take(replace(payload.entered, pidfd=os.dup(payload.entered.pidfd)))
                )
                raise SeraiError("the payload does not end, not even by SIGKILL", code=TIMEOUT)
            result = _reap(payload.entered.pid)
        finally:
            ended.cancel()
            os.close(payload.entered.pidfd)
        if payload.cgroup is not None:
            killed = cgroups.out_of_memory(payload.cgroup.parent) > payload.killed
            result = replace(result, out_of_memory=killed)
        refused = payload.refused.told()
        result = replace(result, left=await self._clear(payload), refused=refused)
        return replace(result, status=TIMED_OUT, timed_out=True) if timed_out else result

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
        if payload.cgroup is not None:
            # Frozen, it could not end by itself. The session may be gone.
            with contextlib.suppress(SeraiError):
                await waking.traffic(self._sessions, payload.session)
        self.send(payload, first)
        done, _ = await asyncio.wait({ended}, timeout=payload.grace)
        if not done:
            if payload.cgroup is not None:
                cgroups.kill(payload.cgroup)
            self.send(payload, signal.SIGKILL)
            await asyncio.wait({ended}, timeout=KILLED)

    async def _ended(self, entered: Entered) -> None:
        """Return once a payload has ended, and see to it that its threads let it end."""
        self._alive.add(entered)
        # Of those that ended before, nobody tells us again.
        reaper.take_threads(entered.pid)
        try:
            await wait.readable(entered.pidfd)
        finally:
            self._alive.discard(entered)

    async def _take(self, entered: Entered) -> None:
        """Reap what nobody asks for any more, whenever it ends."""
        try:
            await self._ended(entered)
            reaper.take(entered.pid)
        finally:
            os.close(entered.pidfd)

    def _sweep_soon(self) -> None:
        """A child or one of its threads has ended. Many ends make one sweep."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._pause, self._sweep_now)

    def _sweep_now(self) -> None:
        start = time.monotonic()
        for entered in self._alive:
            reaper.take_threads(entered.pid)
        # However many threads end, most of the time is others'.
        self._pause = max(SWEEP, SHARE * (time.monotonic() - start))
        self._sweep = None

    async def _clear(self, payload: Payload) -> int:
        """End what the payload left running, unless it is detached; returns how many that were."""
        if payload.cgroup is None:
            return 0
        if payload.detached:
            with contextlib.suppress(OSError):
                payload.cgroup.rmdir()
            return 0
        left = len(cgroups.members(payload.cgroup))
        try:
            await cgroups.destroy(payload.cgroup)
        except OSError as error:
            raise SeraiError(f"what the payload left behind is not removed: {error}") from error
        return left


async def _read(arrival: Arrival) -> None:
    while not arrival.read():
        await wait.readable(arrival.socket.fileno())


def _reap(pid: int) -> Ended:
    status = reaper.take(pid)
    if status is None or os.WIFSIGNALED(status):
        number = signal.SIGKILL if status is None else os.WTERMSIG(status)
        return Ended(128 + number, number)
    return Ended(os.WEXITSTATUS(status), None)
