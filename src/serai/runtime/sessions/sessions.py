"""Sessions: create, move between states, switch, and recover after a crash.

The problem. An operation such as "archive" changes several things: the unit, the home, the users'
files, the gate, the registry. The daemon or the VM can die between any two of them.

The idea. A session is a state machine, and an operation moves it from its state to a goal.

1. Journal: the registry stores the goal before anything changes (``registry.begin``).
2. Act: ``states.plan`` compares the facts of both states (where is the home, does the unit run, is
   it frozen) and lists the steps between them. ``steps`` carries them out. Each step may be
   repeated without harm.
3. Arrive: the registry stores the goal as the new state and clears the goal, in one transaction. If
   that is lost, the goal is still there, and the plan runs once more.

After a crash there is no special path. ``reconcile`` runs once at start. It runs the plan of each
session that still has a goal again from the start, and adopts units that kept running. It stops
units and takes in homes that the registry does not know. Tests kill the daemon at each ``fault``.

When a step fails without a crash, the caller gets the error, and ``states.fallback`` names the
state that the session falls back to.

Only one operation on a session runs at a time (``_locked``). A switch moves two sessions. Both
arrive in one transaction, so at most one session is active at any moment.
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
from serai.runtime.sessions import homes, names, publish
from serai.runtime.sessions.folders import Folders
from serai.runtime.sessions.gate_client import GateClient
from serai.runtime.sessions.notes import Notes
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.pool import Pool
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.states import FACTS, RUNNING, TAKEN, State, Step, fallback, plan
from serai.runtime.sessions.steps import AT_ONCE, Steps
from serai.runtime.sessions.supervisor import Running, Supervisor
from serai.runtime.sessions.together import Together
from serai.runtime.sessions.uses import Uses
from serai.runtime.settings import SessionSettings

log = logging.getLogger(__name__)
ADOPT_DEADLINE = 20.0
"""Seconds after which a session that cannot be put right at the daemon's start is stopped."""


def no_fault(point: str) -> None:
    """Called before every journal step; a test passes something that kills the process there."""


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
        self._steps = Steps(paths, settings, supervisor, gate, self.folders, ended=self._main_ended)
        self.reasons: dict[int, str] = {}  # by UID: why it stopped or froze though nobody asked
        self.uses = Uses()
        self._locks: dict[int, asyncio.Lock] = {}
        self._switching = asyncio.Lock()
        self._creating = asyncio.Semaphore(AT_ONCE)
        self._together = Together(registry)
        uids, group = self._steps.pooled, self._together
        self.pool = Pool(
            paths, registry, settings, self._bring, together=group, fault=fault, uids=uids
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._deletions: set[asyncio.Task[None]] = set()

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
            uid, pooled = None, False
            if name is None:
                uid, pooled = await self.pool.taken(labels, request, egress, own)
            if uid is None:
                add = partial(self.registry.add, name, labels, time.time(), request, egress)
                made, _ = await self._together.do(partial(add, own=own))
                uid = made.uid
                # Users whose sessions start soon are in the files by the time the first of them
                # starts.
                self._steps.expect_user(uid, made.name)
            # One of the pool has little left to do: it waits for none that is made.
            turn = contextlib.nullcontext() if pooled else self._creating
            async with turn, self._locked(uid):
                record = self._current(uid)
                if record.state is State.CREATING:
                    try:
                        await noted(record)
                    except BaseException:
                        await self._go({uid: State.REMOVING})
                        raise
                    # One of the pool runs, unless it ended just now: then it is made as any other.
                    taken = pooled and self._steps.alive(uid)
                    await self._go({uid: State.READY}, TAKEN if taken else None)
        return self._current(uid)

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
                    await stack.enter_async_context(self._locked(uid))
                goals = {wanted.uid: State.ACTIVE}
                previous = self.registry.active()
                if previous is not None and previous.uid in uids:
                    goals[previous.uid] = State.READY if keep_running else State.FROZEN
                if self._current(wanted.uid).state is State.FROZEN:
                    # Thawed last: it would take the CPU that the other one needs to stop.
                    goals = dict(reversed(goals.items()))
                await self._go(goals)
            return self._current(wanted.uid)

    async def limit(self, record: Record) -> None:
        """Limit a session that is held ``alone`` as its record says, if it runs."""
        for step in (Step.LIMIT_UNIT, Step.LIMIT_DISK) if self.running(record) else ():
            self.fault(f"set:{step.value}")
            await self._steps.do(step, record)

    async def label(self, record: Record) -> None:
        """Tell the gate the labels of a session that is held ``alone``, if it runs."""
        if self.running(record):
            await self._gate.open(record)

    async def attach(self, name: str, new: Attachment) -> Record:
        """Attach a folder of the VM, at once if the session runs. Raises SeraiError."""
        async with self._locked(self.registry.get(name).uid):
            record = self._attachable(name)
            await self.folders.attach(record, self._steps.running(record.uid), new)
            return record

    async def detach(self, name: str, role: str) -> Record:
        """Take a folder away from a session. Raises SeraiError."""
        async with self._locked(self.registry.get(name).uid):
            record = self._attachable(name)
            await self.folders.detach(record, self._steps.running(record.uid), role)
            return record

    def running(self, record: Record) -> Running | None:
        """The unit of a session, if it runs and can be entered."""
        return self._steps.running(record.uid)

    def use(self, settings: SessionSettings) -> None:
        """From now on these count; what a sandbox is made of, from a session's next start on."""
        self.settings = self.folders.settings = self._steps.settings = settings
        self.pool.use(settings)
        self.share_disk()

    def share_disk(self) -> None:
        """Divide the sessions disk anew among the sessions that can write."""
        self._steps.share_disk()

    async def reconcile(self) -> None:
        """Make the world and the registry agree, whatever happened before. Run once, at start."""
        homes.prepare(self.paths)
        homes.take_in(self.paths, self.registry)
        self.registry.prune_requests(time.time())
        records = self.registry.all(pooled=True)
        users = {each.uid: each.name for each in records if each.state != State.REMOVING}
        self._steps.set_users(users)
        self.folders.keep(set(users))
        publish.prune(self.paths, set(users.values()))
        units = await self._supervisor.running()
        for stranger in units.keys() - set(users.values()):
            await self._supervisor.stop(stranger)
        switching = [each for each in records if each.goal is State.ACTIVE]
        told = [each for each in records if each.name in units and not each.pooled]
        await self._steps.tell_gate(told)
        mains = [units.get(each.name) if each.uid in users else None for each in records]
        # All at once: none of them can make the others wait.
        await asyncio.gather(*map(self._adopt, records, mains))
        await self._finish_switch(switching)
        for uid in homes.leftovers(self.paths) - set(users):
            self._delete_later(uid)

    async def deleted(self) -> None:
        """Wait until the data of every removed session is deleted."""
        await asyncio.gather(*self._deletions, return_exceptions=True)

    async def close(self) -> None:
        """Leave sessions as they are and let go of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.notes.close()
        self._steps.let_go()
        self.folders.close()
        self.registry.close()

    async def _adopt(self, record: Record, main: int | None) -> None:
        try:
            await asyncio.wait_for(self._put_right(record, main), ADOPT_DEADLINE)
        except (SeraiError, OSError, asyncio.TimeoutError) as error:
            log.error("session %s is not put right: %s", record.name, str(error) or "too slow")
            await self._give_up(record)

    async def _put_right(self, record: Record, main: int | None) -> None:
        """Carry one session to its goal, or see that it is where the registry says."""
        if record.state is State.REMOVING:
            self._delete_later(record.uid)
            return
        if record.pooled:
            # Made by who knows which version and settings.
            await self._bring(record.uid, State.REMOVING)
            return
        supposed, goal = record.state in RUNNING, record.goal
        if supposed and main is None and (goal is None or goal in RUNNING):
            # The VM was restarted, or the unit died while nobody watched.
            publish.withdraw(self.paths, record.name)
            self._arrive({record.uid: State.STOPPED})
            return
        if supposed and main is not None:
            await self._steps.take_over(record, main)
        if goal is not None:
            if goal is not State.ACTIVE:
                await self._go({record.uid: goal})
                # It may have been noted when it was asked for, or not: that was cut off, too.
                self.notes.by_itself("finish", record, goal=goal.value)
        elif supposed:
            await self._steps.do(Step.FREEZE if FACTS[record.state].frozen else Step.THAW, record)
        elif main is not None:
            await self._steps.do(Step.STOP, record)

    async def _give_up(self, record: Record) -> None:
        """A session that runs but cannot be entered is stopped, so that it can be started anew."""
        current = self.registry.by_uid(record.uid)
        if current is not None and current.pooled:
            self.pool.discard([current.uid])  # it is tried again
        elif current is not None and current.goal is None and current.state in RUNNING:
            with contextlib.suppress(SeraiError, OSError):
                await self._steps.do(Step.STOP, current)
                self._arrive({current.uid: State.STOPPED})

    async def _finish_switch(self, records: list[Record]) -> None:
        """A switch that was cut off: the one that was to be active becomes it."""
        for record in records:
            current = self._current(record.uid)
            if current.goal is None:
                # Its unit is gone since: an active session would have been stopped, too.
                continue
            try:
                goals = {record.uid: State.ACTIVE}
                if (before := self.registry.active()) is not None:
                    goals[before.uid] = State.FROZEN
                await self._go(goals)
                self.notes.by_itself("finish", record, goal=State.ACTIVE.value)
            except (SeraiError, OSError) as error:
                log.error("switching to %s is not finished: %s", record.name, error)

    async def settle(self, name: str, wanted: Callable[[Record], State | None]) -> State | None:
        """Move a session where ``wanted`` says when its turn has come; returns that."""
        async with self.alone(name) as record:
            if (goal := wanted(record)) is not None:
                await self._go({record.uid: goal})
            return goal

    async def _move(self, name: str, goal: State, keep: set[State] | None = None) -> Record:
        uid = self.registry.get(name).uid
        async with self._locked(uid):
            record = self._current(uid)
            if record.state is not goal and record.state not in (keep or ()):
                await self._go({uid: goal})
            return self._current(uid)

    async def _bring(self, uid: int, goal: State) -> None:
        """Move one that is the pool's; nothing if it is removed, or was taken just now."""
        async with self._locked(uid):
            record = self.registry.by_uid(uid)
            if record is not None and record.pooled and record.state is not State.REMOVING:
                await self._go({uid: goal})

    async def _go(
        self, goals: Mapping[int, State], steps_left: tuple[Step, ...] | None = None
    ) -> None:
        """Journal, act, and arrive at all goals at once; by the plan, or by what is left of it.

        Raises what the failing step raised, after falling back.
        """
        records = [self._current(uid) for uid in goals]
        for uid in goals:
            self.reasons.pop(uid, None)
        plans = [steps_left or plan(each.name, each.state, goals[each.uid]) for each in records]
        operation = "+".join(goal.value for goal in goals.values())
        if any(each.goal is not goals[each.uid] for each in records):
            self.fault(f"{operation}:journal")
            self.registry.begin(goals)
        for record, steps in zip(records, plans, strict=True):
            for step in steps:
                self.fault(f"{goals[record.uid].value}:{step.value}")
                try:
                    await self._steps.do(step, record)
                except (SeraiError, OSError) as error:
                    await self._fall_back(goals, record, step)
                    if isinstance(error, SeraiError):
                        raise
                    raise SeraiError(f"session {record.name}: {step.value}: {error}") from error
        self.fault(f"{operation}:arrive")
        self._arrive(goals)

    async def _fall_back(self, goals: Mapping[int, State], failed: Record, step: Step) -> None:
        """Undo what a failed step left; other sessions of the operation stay what they were."""
        states = {uid: self._current(uid).state for uid in goals}
        for other in map(self._current, goals.keys() - {failed.uid}):
            with contextlib.suppress(SeraiError, OSError):
                for back in plan(other.name, goals[other.uid], other.state):
                    await self._steps.do(back, other)
        states[failed.uid] = fallback(failed.state, step)
        if not FACTS[states[failed.uid]].running:
            with contextlib.suppress(SeraiError, OSError):
                await self._steps.do(Step.STOP, failed)
        if states[failed.uid] is State.REMOVING:
            await self._steps.do(Step.MOVE_HOME_AWAY, failed)
        self._arrive(states)

    def _main_ended(self, uid: int, running: Running) -> None:
        # At once: its cgroup goes with it.
        killed = cgroups.out_of_memory(running.cgroup) if running.cgroup else 0
        memory = f"; out of memory: the kernel had killed {killed} of its processes"
        self.keep(self._unit_ended(uid, running, f"it ended by itself{memory if killed else ''}"))

    async def _unit_ended(self, uid: int, running: Running, reason: str) -> None:
        """A unit's main process ended although nobody asked: the session is stopped."""
        async with self._locked(uid):
            if self._steps.running(uid) is not running:
                return
            record = self._current(uid)
            if record.pooled:
                self.pool.lost(uid)
                return
            if record.state is State.CREATING:
                # Taken out of the pool, and its turn has not come: it is started anew then.
                await self._steps.do(Step.STOP, record)
                return
            log.warning("session %s is stopped: %s", record.name, reason)
            self.reasons[uid] = reason
            await self._steps.do(Step.STOP, record)
            self._arrive({uid: State.STOPPED})
            self.notes.by_itself("stop", record, reason=reason)

    def _delete_later(self, uid: int) -> None:
        task = self.keep(self._delete(uid))
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)

    async def _delete(self, uid: int) -> None:
        """Delete a removed session's data; its row goes last."""
        try:
            await homes.delete(self.paths, uid)
        except SeraiError as error:
            log.error("%s", error)
            return
        record = self.registry.by_uid(uid)
        self.fault("removed:forget")
        self.registry.forget(uid)
        self._locks.pop(uid, None)
        if record is not None and not record.pooled:
            self.changed("session.removed", record)

    def _arrive(self, states: Mapping[int, State]) -> None:
        self.registry.arrive(states, time.time())
        for uid, state in states.items():
            self.uses.arrived((record := self._current(uid)).name)
            if not record.pooled:
                self.changed("session.changed", record)
            if state is State.REMOVING:
                self.uses.forget(record.name)
                self._steps.drop_user(uid)
                self._delete_later(uid)

    def _attachable(self, name: str) -> Record:
        record = self.registry.get(name)
        if record.state is State.CREATING or record.goal is not None:
            raise SeraiError(f"session {name} is just changing", "try again", WRONG_STATE)
        return record

    def _current(self, uid: int) -> Record:
        record = self.registry.by_uid(uid)
        if record is None:
            raise SeraiError("the session was removed meanwhile", code=WRONG_STATE)
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
        async with self._locked(uid):
            yield self._current(uid)

    @contextlib.asynccontextmanager
    async def _locked(self, uid: int) -> AsyncIterator[None]:
        async with self._locks.setdefault(uid, asyncio.Lock()):
            yield
