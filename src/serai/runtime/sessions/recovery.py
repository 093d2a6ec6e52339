"""Recovery: at the daemon's start, the registry and the world are made to agree.

There is no special path after a crash. The plan of each session that still has a goal is run again
from the start, and units that kept running are adopted. Units that the registry does not know are
stopped, homes that it does not know are taken in, and what waited in the pool is removed. Tests
kill the daemon at each ``fault``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from serai.common.errors import SeraiError
from serai.runtime.sessions.notes import Notes
from serai.runtime.sessions.pool import Pool
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import FACTS, RUNNING, State, Step
from serai.runtime.sessions.steps import homes, publish
from serai.runtime.sessions.steps.folders import Folders
from serai.runtime.sessions.steps.goals import Goals
from serai.runtime.sessions.supervising.supervisor import Supervisor

log = logging.getLogger(__name__)
ADOPT_DEADLINE = 20.0
"""Seconds after which a session that cannot be put right at the daemon's start is stopped."""


class Recovery:
    """What was cut off is finished, and what nobody knows is ended."""

    def __init__(
        self, goals: Goals, supervisor: Supervisor, folders: Folders, pool: Pool, notes: Notes
    ) -> None:
        self._paths = goals.paths
        self._registry = goals.registry
        self._steps = goals.steps
        self._goals = goals
        self._supervisor = supervisor
        self._folders = folders
        self._pool = pool
        self._notes = notes
        self.travelling: dict[State, Callable[[Record], Awaitable[None]]] = {}

    async def reconcile(self) -> None:
        """Make the world and the registry agree, whatever happened before. Run once, at start."""
        homes.prepare(self._paths)
        homes.take_in(self._paths, self._registry)
        self._registry.prune_requests(time.time())
        records = self._registry.all(pooled=True)
        users = {each.uid: each.name for each in records if each.state != State.REMOVING}
        self._steps.set_users(users)
        self._folders.keep(set(users))
        publish.prune(self._paths, set(users.values()))
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
        for uid in homes.leftovers(self._paths) - set(users):
            self._goals.delete_later(uid)

    async def _adopt(self, record: Record, main: int | None) -> None:
        try:
            await asyncio.wait_for(self._put_right(record, main), ADOPT_DEADLINE)
        except (SeraiError, OSError, asyncio.TimeoutError) as error:
            log.error("session %s is not put right: %s", record.name, str(error) or "too slow")
            await self._give_up(record)

    async def _put_right(self, record: Record, main: int | None) -> None:
        """Carry one session to its goal, or see that it is where the registry says."""
        if record.state is State.REMOVING:
            self._goals.delete_later(record.uid)
            return
        if record.pooled:
            # Made by who knows which version and settings.
            await self._goals.bring(record.uid, State.REMOVING)
            return
        supposed, goal = record.state in RUNNING, record.goal
        if supposed and main is None and (goal is None or goal in RUNNING):
            # The VM was restarted, or the unit died while nobody watched.
            publish.withdraw(self._paths, record.name)
            self._goals.arrive({record.uid: State.STOPPED})
            return
        if supposed and main is not None:
            await self._steps.take_over(record, main)
        if goal is not None:
            if goal is not State.ACTIVE:
                await self._goals.go({record.uid: goal})
                # It may have been noted when it was asked for, or not: that was cut off, too.
                self._notes.by_itself("finish", record, goal=goal.value)
        elif (put_right := self.travelling.get(record.state)) is not None:
            await put_right(record)
        elif supposed:
            await self._steps.do(Step.FREEZE if FACTS[record.state].frozen else Step.THAW, record)
        elif main is not None:
            await self._steps.do(Step.STOP, record)

    async def _give_up(self, record: Record) -> None:
        """A session that runs but cannot be entered is stopped, so that it can be started anew."""
        current = self._registry.by_uid(record.uid)
        if current is not None and current.pooled:
            self._pool.discard([current.uid])  # it is tried again
        elif current is not None and current.goal is None and current.state in RUNNING:
            with contextlib.suppress(SeraiError, OSError):
                await self._steps.do(Step.STOP, current)
                self._goals.arrive({current.uid: State.STOPPED})

    async def _finish_switch(self, records: list[Record]) -> None:
        """A switch that was cut off: the one that was to be active becomes it."""
        for record in records:
            current = self._goals.current(record.uid)
            if current.goal is None:
                # Its unit is gone since: an active session would have been stopped, too.
                continue
            try:
                goals = {record.uid: State.ACTIVE}
                if (before := self._registry.active()) is not None:
                    goals[before.uid] = State.FROZEN
                await self._goals.go(goals)
                self._notes.by_itself("finish", record, goal=State.ACTIVE.value)
            except (SeraiError, OSError) as error:
                log.error("switching to %s is not finished: %s", record.name, error)
