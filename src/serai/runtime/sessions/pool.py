"""The pool: sessions that are made before anybody asks, for creates that ask for no name.

One that waits runs already: its user, home, sandbox and bridge are there, and the gate denies it
everything. It is nobody's: only here and in the registry, where its row is marked, it can be found.
A create takes it by one transaction, which takes the mark away and makes the row the creator's;
from then on it is a session that is being made, and what is left of that is to limit it and to open
the gate. So a crash at any point finds either a marked row, which is removed at the next start, or
a session to finish.

It is filled one at a time, never while a create is under way, and rests as long as the last one
took: what payloads do comes first. A start of the daemon, or other settings, make all anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from serai.common import proc
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.own import Own, memory_of_vm
from serai.runtime.sessions.registry import Registry
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.steps.quota import Level
from serai.runtime.sessions.together import Together
from serai.runtime.settings import SessionSettings

log = logging.getLogger(__name__)
EACH = 6 << 20
"""Bytes that one that waits takes."""
PART = 20
"""All of them take at most this part of the VM's memory: one twentieth."""
SPARE = 10
"""They are made only while this part of it is available: one tenth."""
POLICY = {"profile": "default", "deny": ["*", "0.0.0.0/0", "::/0"]}
"""A deny wins over whatever the profile allows."""
LEAST_REST = 0.05
CALM = 0.1
"""Seconds after a create in which none is made: then comes the first command in the new session."""
PATIENCE = 0.5
"""So long creates that follow each other can put it off, for else the pool would stay empty."""
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
Bring = Callable[[int, State], Awaitable[None]]


def wanted(size: int, memory: int) -> int:
    """How many of ``size`` a VM with so many bytes of memory holds ready."""
    return min(size, memory // PART // EACH)


def check_memory(meminfo: str) -> None:
    """Raise SeraiError if memory is short, by the text of /proc/meminfo."""
    found = proc.memory(meminfo)
    total, available = found["MemTotal"], found["MemAvailable"]
    if available * SPARE < total:
        raise SeraiError(
            f"only {available >> 10} MiB of memory are available, and none is made below"
            f" {total // SPARE >> 10}",
            "stop sessions, or give the VM more memory",
        )


def check_disk(sessions: Path, settings: SessionSettings) -> None:
    """Raise SeraiError if the sessions disk is short."""
    free = min(quota.free(sessions), quota.free_files(sessions))
    if quota.level(free, settings.disk) is not Level.FINE:
        raise SeraiError("the sessions disk is nearly full", "see 'serai gc --help'")


class Pool:
    """Which ones wait, by UID.

    ``bring`` brings one to a state. ``uids`` gets all that are nobody's, those being made too.
    """

    def __init__(
        self,
        paths: Paths,
        registry: Registry,
        settings: SessionSettings,
        bring: Bring,
        *,
        together: Together,
        fault: Callable[[str], None],
        uids: set[int],
    ) -> None:
        self._paths = paths
        self._registry = registry
        self._together = together
        self._settings = settings
        self._bring = bring
        self._fault = fault
        self._uids = uids
        self._wanted = self._held(settings)
        self._ready: deque[int] = deque()
        self._old: deque[int] = deque()  # to be removed
        self._making = False
        self._removed = False  # the last step removed one
        self._round = 0  # how often all were made anew
        self._taken = self._missed = 0
        self._problem = ""
        self._creates = 0
        self._created = 0.0  # when the last one was done
        self._due = asyncio.Event()
        self._due.set()
        self._told = asyncio.Event()  # of other settings
        self._quiet = asyncio.Event()
        self._quiet.set()

    def shown(self) -> dict[str, Any]:
        """Counts, for people; ``taken`` and ``missed`` since the daemon's start."""
        return {
            "size": self._settings.pool.size,
            "wanted": self._wanted,
            "ready": len(self._ready),
            "making": int(self._making),
            "removing": len(self._old),
            "taken": self._taken,
            "missed": self._missed,
            "problem": self._problem or None,
        }

    def use(self, settings: SessionSettings) -> None:
        """These count from now on. Those that wait were made by others, and are made anew."""
        if replace(settings, pool=self._settings.pool) != self._settings:
            self._round += 1
            self.discard(self._ready)
            self._ready.clear()
        self._settings = settings
        self._wanted = self._held(settings)
        self._shrink()
        self._due.set()
        self._told.set()

    def _shrink(self) -> None:
        """The newest go first."""
        while len(self._ready) > self._wanted:
            self._old.append(self._ready.pop())

    @staticmethod
    def _held(settings: SessionSettings) -> int:
        """How many these have ready. Fewer than they ask for are told to who reads the log."""
        found = wanted(size := settings.pool.size, memory_of_vm())
        if found < size:
            log.warning(
                "the pool holds %d, not %d: the VM's memory has no room for more", found, size
            )
        return found

    def discard(self, uids: Iterable[int]) -> None:
        """Remove these, which are of no use any more."""
        self._old.extend(uids)
        self._removed = False  # one goes before one is made
        self._due.set()

    def lost(self, uid: int) -> None:
        """Its unit has ended."""
        with contextlib.suppress(ValueError):
            self._ready.remove(uid)
        self.discard([uid])

    async def take(
        self,
        labels: Mapping[str, str],
        request: tuple[str, str] | None,
        policy: Mapping[str, Any],
        own: Own,
    ) -> tuple[int | None, bool]:
        """Give one that waits to a creator; its UID, and True.

        If the request was made before: the UID of its session, and False. None if none waits, or
        it would have another sandbox. Raises SeraiError.
        """
        if not self._wanted or own.sandbox != self._settings.sandboxes[0]:
            return None, False
        if not self._ready:
            self._missed += 1
            return None, False
        waiting, its_round = self._ready.popleft(), self._round  # at once: nobody else gets it
        add = partial(self._registry.add, None, labels, time.time(), request, policy)
        try:
            made, _ = await self._together.do(partial(add, own=own, waiting=waiting))
        except BaseException:
            self._put_back(waiting, its_round)
            raise
        self._due.set()
        if made.uid != waiting:
            self._put_back(waiting, its_round)
            return made.uid, False
        self._uids.discard(waiting)
        self._taken += 1
        return waiting, True

    def _put_back(self, uid: int, its_round: int) -> None:
        """It was not needed, unless it was taken all the same, or has ended or grown old since."""
        found = self._registry.by_uid(uid)
        if found is None or not found.pooled:
            self._uids.discard(uid)
        elif its_round != self._round:
            self.discard([uid])
        elif found.state is State.READY and found.goal is None and uid not in self._old:
            self._ready.appendleft(uid)

    @contextlib.contextmanager
    def creating(self) -> Iterator[None]:
        """A create is under way: nothing is made meanwhile."""
        self._creates += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._creates -= 1
            self._created = time.monotonic()
            if not self._creates:
                self._quiet.set()

    async def run(self) -> None:
        """Make and remove what is due, until cancelled."""
        retry = FIRST_RETRY
        while True:
            await self._due.wait()
            await self._calm()
            start = time.monotonic()
            try:
                if not await self._step():
                    self._due.clear()
                    self._problem, retry = "", FIRST_RETRY
                    continue
            except Exception as error:  # whatever it is: without a pool creates are only slower
                if not self._problem:  # told once, however often it is tried
                    log.warning("the pool is not filled: %s", error)
                self._problem = str(error)
                self._told.clear()
                with contextlib.suppress(asyncio.TimeoutError):  # other settings may help at once
                    await asyncio.wait_for(self._told.wait(), retry)
                retry = min(2 * retry, LAST_RETRY)
                continue
            retry = FIRST_RETRY
            await asyncio.sleep(max(LEAST_REST, time.monotonic() - start))

    async def _calm(self) -> None:
        """Wait until no create is under way, nor was a moment ago."""
        latest = time.monotonic() + PATIENCE
        await self._quiet.wait()
        while (left := min(self._created + CALM, latest) - time.monotonic()) > 0:
            await asyncio.sleep(left)
            await self._quiet.wait()

    async def _step(self) -> bool:
        """Remove one, or make one; whether there was anything to do.

        In turns, where both are due: many old ones do not leave the pool empty until all are gone,
        and there are never more of both together. Where none can be made, all old ones go first.
        """
        self._shrink()
        full = len(self._ready) == self._wanted
        if self._old and (full or not self._removed or self._problem):
            await self._bring(self._old[0], State.REMOVING)
            self._uids.discard(self._old.popleft())
            self._removed = True
            return True
        if full:
            return False
        self._removed = False
        check_memory(Path("/proc/meminfo").read_text())
        check_disk(self._paths.sessions, self._settings)
        await self._make()
        self._problem = ""
        return True

    async def _make(self) -> None:
        self._fault("pool:journal")
        own = Own(sandbox=self._settings.sandboxes[0])
        uid = self._registry.add_pooled(POLICY, own, time.time()).uid
        self._uids.add(uid)
        self._making, its_round = True, self._round
        try:
            await self._bring(uid, State.READY)
        except BaseException:
            found = self._registry.by_uid(uid)
            if found is None or found.state is State.REMOVING:
                self._uids.discard(uid)
            else:  # what was there could not be taken away
                self.discard([uid])
            raise
        finally:
            self._making = False
        (self._ready if its_round == self._round else self._old).append(uid)
