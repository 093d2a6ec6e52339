"""Brings sessions to their goals: what makes an operation whole, however often it is cut off.

The problem. An operation such as "archive" changes several things: the unit, the home, the users'
files, the gate, the registry. The daemon or the VM can die between any two of them.

The idea. A session is a state machine, and an operation brings it from its state to a goal.

1. Journal: the registry stores the goal before anything changes (``registry.begin``).
2. Act: ``states.plan`` compares the facts of both states (where is the home, does the unit run, is
   it frozen) and lists the steps between them. ``steps`` carries them out. Each step may be
   repeated without harm.
3. Arrive: the registry stores the goal as the new state and clears the goal, in one transaction. If
   that is lost, the goal is still there, and ``recovery`` runs the plan once more.

When a step fails without a crash, the caller gets the error, and ``states.fallback`` names the
state that the session falls back to.

Only one operation on a session runs at a time (``locked``). A switch is about two sessions. Both
arrive in one transaction, so at most one session is active at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

from serai.common.errors import WRONG_STATE, SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.states import FACTS, State, Step, fallback, plan
from serai.runtime.sessions.steps import homes
from serai.runtime.sessions.steps.steps import Steps
from serai.runtime.sessions.steps.uses import Uses

log = logging.getLogger(__name__)


def no_fault(point: str) -> None:
    """Called before every journal step; a test passes something that kills the process there."""


class Goals:
    """The only way from one state to another; ``changed`` gets an event and one that has changed.

    ``reasons`` says by UID why a session stopped or froze although nobody asked; the next goal
    forgets it.
    """

    def __init__(
        self,
        paths: Paths,
        registry: Registry,
        steps: Steps,
        *,
        changed: Callable[[str, Record], None],
        fault: Callable[[str], None],
    ) -> None:
        self.paths = paths
        self.registry = registry
        self.steps = steps
        self.changed = changed
        self.fault = fault
        self.reasons: dict[int, str] = {}
        self.uses = Uses()
        self._locks: dict[int, asyncio.Lock] = {}
        self._deletions: set[asyncio.Task[None]] = set()

    def current(self, uid: int) -> Record:
        """The session as it is now. Raises SeraiError if it was removed."""
        record = self.registry.by_uid(uid)
        if record is None:
            raise SeraiError("the session was removed meanwhile", code=WRONG_STATE)
        return record

    @contextlib.asynccontextmanager
    async def locked(self, uid: int) -> AsyncIterator[None]:
        """No other operation on this session is under way meanwhile."""
        async with self._locks.setdefault(uid, asyncio.Lock()):
            yield

    async def bring(self, uid: int, goal: State) -> None:
        """Bring one that is the pool's; nothing if it is removed, or was taken just now."""
        async with self.locked(uid):
            record = self.registry.by_uid(uid)
            if record is not None and record.pooled and record.state is not State.REMOVING:
                await self.go({uid: goal})

    async def go(
        self, goals: Mapping[int, State], steps_left: tuple[Step, ...] | None = None
    ) -> None:
        """Journal, act, and arrive at all goals at once; by the plan, or by what is left of it.

        Raises what the failing step raised, after falling back.
        """
        records = [self.current(uid) for uid in goals]
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
                    await self.steps.do(step, record)
                except (SeraiError, OSError) as error:
                    await self._fall_back(goals, record, step)
                    if isinstance(error, SeraiError):
                        raise
                    raise SeraiError(f"session {record.name}: {step.value}: {error}") from error
        self.fault(f"{operation}:arrive")
        self.arrive(goals)

    async def _fall_back(self, goals: Mapping[int, State], failed: Record, step: Step) -> None:
        """Undo what a failed step left; other sessions of the operation stay what they were."""
        states = {uid: self.current(uid).state for uid in goals}
        for other in map(self.current, goals.keys() - {failed.uid}):
            with contextlib.suppress(SeraiError, OSError):
                for back in plan(other.name, goals[other.uid], other.state):
                    await self.steps.do(back, other)
        states[failed.uid] = fallback(failed.state, step)
        if not FACTS[states[failed.uid]].running:
            with contextlib.suppress(SeraiError, OSError):
                await self.steps.do(Step.STOP, failed)
        if states[failed.uid] is State.REMOVING:
            await self.steps.do(Step.MOVE_HOME_AWAY, failed)
        self.arrive(states)

    def arrive(self, states: Mapping[int, State]) -> None:
        """Note that sessions are in these states now, and tell who waits for that."""
        self.registry.arrive(states, time.time())
        for uid, state in states.items():
            self.uses.arrived((record := self.current(uid)).name)
            if not record.pooled:
                self.changed("session.changed", record)
            if state is State.REMOVING:
                self.uses.forget(record.name)
                self.steps.drop_user(uid)
                self.delete_later(uid)

    async def deleted(self) -> None:
        """Wait until the data of every removed session is deleted."""
        await asyncio.gather(*self._deletions, return_exceptions=True)

    async def close(self) -> None:
        """Let go of data that is being deleted; the next start goes on with it."""
        for task in self._deletions:
            task.cancel()
        await self.deleted()

    def delete_later(self, uid: int) -> None:
        """Delete a removed session's data in the background."""
        task = asyncio.get_running_loop().create_task(self._delete(uid))
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
