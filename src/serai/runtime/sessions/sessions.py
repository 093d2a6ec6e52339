"""Sessions: what can be asked of them, and what happens to one that ends by itself.

``goals`` brings a session from one state to another, so that a crash between two steps does no
harm; ``recovery`` finishes at the next start what a crash has cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from serai.common.errors import WRONG_STATE, SeraiError
from serai.common.paths import Paths
from serai.runtime.folders.attachments import Attachment
from serai.runtime.sandbox import cgroups
from serai.runtime.sessions import names
from serai.runtime.sessions.moves.arrivals import Arrivals
from serai.runtime.sessions.moves.departures import Departures
from serai.runtime.sessions.notes import Notes
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.pool import Pool
from serai.runtime.sessions.recovery import Recovery
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.states import FACTS, TAKEN, State, Step
from serai.runtime.sessions.steps.folders import Folders
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.steps.goals import Goals, no_fault
from serai.runtime.sessions.steps.steps import AT_ONCE, Steps
from serai.runtime.sessions.supervising.supervisor import Running, Supervisor
from serai.runtime.sessions.together import Together
from serai.runtime.settings import SessionSettings

log = logging.getLogger(__name__)


async def not_noted(record: Record) -> None:
    """For ``create``, where there is no audit log."""


class Sessions:
    """Every session of the VM; ``changed`` is called with an event and one that has changed."""

    def __init__(
        self,
        paths: Paths,
        registry: Registry,
        supervisor: Supervisor,
        settings: SessionSettings,
        gate: GateClient,
        *,
        changed: Callable[[str, Record], None],
        fault: Callable[[str], None] = no_fault,
    ) -> None:
        self.paths = paths
        self.registry = registry
        self.settings = settings
        self._supervisor = supervisor
        self.changed = changed
        self.fault = fault
        self._gate = gate
        self.notes = Notes(gate)
        self.folders = Folders(paths, settings, supervisor, fault)
        steps = Steps(paths, settings, supervisor, gate, self.folders, ended=self._main_ended)
        self._goals = Goals(paths, registry, steps, changed=changed, fault=fault)
        self.reasons, self.uses = self._goals.reasons, self._goals.uses
        self._switching = asyncio.Lock()
        self._creating = asyncio.Semaphore(AT_ONCE)
        self._together = Together(registry)
        self.pool = Pool(
            *(paths, registry, settings, self._goals.bring),
            together=self._together,
            fault=fault,
            uids=steps.pooled,
        )
        self.arrivals = Arrivals(paths, registry, self._goals, gate, lambda: self.settings)
        self.departures = Departures(registry, self._goals)
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(
        self,
        name: str | None,
        labels: Mapping[str, str],
        request_id: str | None = None,
        profile: str | None = None,
        *,
        own: Own | None = None,
        noted: Callable[[Record], Awaitable[None]] = not_noted,
    ) -> Record:
        """Make a session and start it. The same ``request_id`` again returns the same session.

        ``profile`` is the gate's policy for it (None: ``default``); ``own`` is checked already.
        ``noted`` has it in the audit log, once it has a name; there is no session if that fails.
        """
        egress = {} if profile is None else {"profile": profile}
        if egress:
            await self._gate.call("check", policy=egress)
        if name is not None:
            names.check(name, names.system_names(self.paths.root / "etc"))
        own = own or Own()
        more = [own.stored()] if own.stored() else []
        fingerprint = json.dumps([name, dict(labels), profile, *more], sort_keys=True)
        request = None if request_id is None else (request_id, fingerprint)
        with self.pool.creating():
            self.fault("create:journal")
            uid, pooled = await self._add(name, labels, request, egress, own)
            # Locked first: whoever reopens or removes it meanwhile waits until it is noted and
            # made, and who asks for the same again takes no turn from others.
            async with self._goals.locked(uid):
                if self._goals.current(uid).state is State.CREATING:
                    # One of the pool has little left to do: it waits for none that is made.
                    async with contextlib.nullcontext() if pooled else self._creating:
                        await self._make(uid, noted, pooled=pooled)
        return self._goals.current(uid)

    async def _make(
        self, uid: int, noted: Callable[[Record], Awaitable[None]], *, pooled: bool
    ) -> None:
        try:
            await noted(self._goals.current(uid))
        except BaseException:
            await self._goals.go({uid: State.REMOVING})
            raise
        # One of the pool runs, unless it ended just now: then it is made as any other.
        taken = pooled and self._goals.steps.alive(uid)
        await self._goals.go({uid: State.READY}, TAKEN if taken else None)

    async def stop(self, name: str) -> Record:
        """End everything in a session; its home stays."""
        return await self._move(name, State.STOPPED, keep={State.ARCHIVED})

    async def archive(self, name: str) -> Record:
        """End everything in a session and lock its home away."""
        return await self._move(name, State.ARCHIVED)

    async def reopen(self, name: str) -> Record:
        """Bring a session back from archived, stopped or frozen."""
        return await self._move(name, State.READY, keep={State.ACTIVE})

    async def remove(self, name: str) -> Record:
        """End a session for good; its data is out of reach at once and deleted later."""
        return await self._move(name, State.REMOVING)

    async def switch(self, name: str, *, keep_running: bool = False) -> Record:
        """Make a session the active one; the one before is frozen, or kept running."""
        async with self._switching:
            wanted, before = self.registry.get(name), self.registry.active()
            if before is not None and before.uid == wanted.uid:
                return wanted
            uids = sorted({wanted.uid} | ({before.uid} if before else set()))
            async with contextlib.AsyncExitStack() as stack:
                for uid in uids:
                    await stack.enter_async_context(self._goals.locked(uid))
                goals = {wanted.uid: State.ACTIVE}
                previous = self.registry.active()
                if previous is not None and previous.uid in uids:
                    goals[previous.uid] = State.READY if keep_running else State.FROZEN
                if self._goals.current(wanted.uid).state is State.FROZEN:
                    # Thawed last: it would take the CPU that the other one needs to stop.
                    goals = dict(reversed(goals.items()))
                await self._goals.go(goals)
            return self._goals.current(wanted.uid)

    async def limit(self, record: Record) -> None:
        """Limit a session that is held ``alone`` as its record says, if it runs."""
        for step in (Step.LIMIT_UNIT, Step.LIMIT_DISK) if self.running(record) else ():
            self.fault(f"set:{step.value}")
            await self._goals.steps.do(step, record)

    async def label(self, record: Record) -> None:
        """Tell the gate the labels of a session that is held ``alone``, if it runs."""
        if self.running(record):
            await self._gate.open(record)

    async def attach(self, name: str, new: Attachment) -> Record:
        """Attach a folder of the VM, at once if the session runs. Raises SeraiError."""
        async with self._goals.locked(self.registry.get(name).uid):
            record = self._attachable(name)
            await self.folders.attach(record, self._goals.steps.running(record.uid), new)
            return record

    async def detach(self, name: str, role: str) -> Record:
        """Take a folder away from a session. Raises SeraiError."""
        async with self._goals.locked(self.registry.get(name).uid):
            record = self._attachable(name)
            await self.folders.detach(record, self._goals.steps.running(record.uid), role)
            return record

    def running(self, record: Record) -> Running | None:
        """The unit of a session, if it runs and can be entered."""
        return self._goals.steps.running(record.uid)

    def use(self, settings: SessionSettings) -> None:
        """From now on these count; what a sandbox is made of, from a session's next start on."""
        self.settings = self.folders.settings = self._goals.steps.settings = settings
        self.pool.use(settings)
        self.share_disk()

    def share_disk(self) -> None:
        """Divide the sessions disk anew among the sessions that can write."""
        self._goals.steps.share_disk()

    async def reconcile(self) -> None:
        """Make the world and the registry agree, whatever happened before. Run once, at start."""
        recovery = Recovery(self._goals, self._supervisor, self.folders, self.pool, self.notes)
        recovery.travelling = {
            State.ARRIVING: self.arrivals.put_right,
            State.MOVING: self.departures.put_right,
        }
        await recovery.reconcile()

    async def deleted(self) -> None:
        """Wait until the data of every removed session is deleted."""
        await self._goals.deleted()

    async def close(self) -> None:
        """Leave sessions as they are and let go of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._goals.close()
        await self.notes.close()
        self._goals.steps.let_go()
        self.folders.close()
        self.registry.close()

    async def settle(self, name: str, wanted: Callable[[Record], State | None]) -> State | None:
        """Move a session where ``wanted`` says when its turn has come; returns that."""
        async with self.alone(name) as record:
            if (goal := wanted(record)) is not None:
                await self._goals.go({record.uid: goal})
            return goal

    async def _add(
        self,
        name: str | None,
        labels: Mapping[str, str],
        request: tuple[str, str] | None,
        egress: Mapping[str, Any],
        own: Own,
    ) -> tuple[int, bool]:
        """Have a session in the registry: its UID, and whether it was one of the pool."""
        if name is None:
            uid, pooled = await self.pool.take(labels, request, egress, own)
            if uid is not None:
                return uid, pooled
        cgroups.expect_move()
        add = partial(self.registry.add, name, labels, time.time(), request, egress)
        made, _ = await self._together.do(partial(add, own=own))
        # Users whose sessions start soon are in the files by the time the first of them starts.
        self._goals.steps.expect_user(made.uid, made.name)
        return made.uid, False

    async def _move(self, name: str, goal: State, keep: set[State] | None = None) -> Record:
        uid = self.registry.get(name).uid
        async with self._goals.locked(uid):
            record = self._goals.current(uid)
            _check_travels(record, goal)
            if record.state is not goal and record.state not in (keep or ()):
                await self._goals.go({uid: goal})
            return self._goals.current(uid)

    def _main_ended(self, uid: int, running: Running) -> None:
        # At once: its cgroup goes with it.
        killed = cgroups.out_of_memory(running.cgroup) if running.cgroup else 0
        memory = f"; out of memory: the kernel had killed {killed} of its processes"
        self.keep(self._unit_ended(uid, running, f"it ended by itself{memory if killed else ''}"))

    async def _unit_ended(self, uid: int, running: Running, reason: str) -> None:
        """A unit's main process ended although nobody asked: the session is stopped."""
        async with self._goals.locked(uid):
            if self._goals.steps.running(uid) is not running:
                return
            record = self._goals.current(uid)
            if record.pooled:
                self.pool.lost(uid)
                return
            if record.state is State.CREATING:
                # Taken out of the pool, and its turn has not come: it is started anew then.
                await self._goals.steps.do(Step.STOP, record)
                return
            log.warning("session %s is stopped: %s", record.name, reason)
            self.reasons[uid] = reason
            await self._goals.steps.do(Step.STOP, record)
            self._goals.arrive({uid: State.STOPPED})
            self.notes.by_itself("stop", record, reason=reason)

    def _attachable(self, name: str) -> Record:
        record = self.registry.get(name)
        if record.state is State.CREATING or record.goal is not None:
            raise SeraiError(f"session {name} is just changing", "try again", WRONG_STATE)
        return record

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background; it is cancelled when the daemon ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[Record]:
        """A session on which no operation is under way meanwhile."""
        uid = self.registry.get(name).uid
        async with self._goals.locked(uid):
            yield self._goals.current(uid)

    @contextlib.asynccontextmanager
    async def still(self, name: str) -> AsyncIterator[Record]:
        """A session in which nothing changes meanwhile: one that runs is frozen. Raises SeraiError.

        If the daemon is killed, its next start thaws it.
        """
        async with self.alone(name) as record:
            facts = FACTS[record.state]
            if facts.home not in ("open", "locked") or record.goal is not None:
                raise SeraiError(f"session {name} is {record.state.value}", code=WRONG_STATE)
            freezes = facts.running and not facts.frozen
            if freezes:
                await self._goals.steps.do(Step.FREEZE, record)
            try:
                yield record
            finally:
                if freezes and self.running(record):
                    await self._goals.steps.do(Step.THAW, record)


def _check_travels(record: Record, goal: State) -> None:
    """Raise SeraiError for one that a move has, which alone knows where it may go."""
    if record.state is State.MOVING:
        raise SeraiError(
            f"session {record.name} is being moved to another VM",
            f"'serai move {record.name}' again finishes it, and --cancel has it back",
            WRONG_STATE,
        )
    if record.state is State.ARRIVING and goal is not State.REMOVING:
        raise SeraiError(f"session {record.name} has not arrived yet", code=WRONG_STATE)
