"""Archives and removes sessions that nobody uses, as gc says, so that the disk has room."""

from __future__ import annotations

import asyncio
import time

from serai.runtime.sessions import gc, quota
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State


class Collector:
    """One collection at a time."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._collecting = asyncio.Lock()

    def free(self) -> float:
        """How much of the sessions disk is free, in percent."""
        return quota.free(self._sessions.paths.sessions)

    async def collect(
        self, keep_days: float | None, keep_free: float | None, *, dry_run: bool = False
    ) -> list[gc.Action]:
        """Archive and remove by age, then remove archived ones for ``keep_free`` percent of room.

        None: no such rule. Returns what was done, or with ``dry_run`` what would be.
        """
        done: list[gc.Action] = []
        async with self._collecting:
            if keep_days is not None:
                done += gc.by_age(self._sessions.registry.all(), time.time(), keep_days)
                for old in done:
                    await self._act(old, dry_run)
            records = self._sessions.registry.all() if keep_free is not None else []
            while action := gc.for_room(records, self.free(), keep_free or 0):
                await self._act(action, dry_run)
                if not dry_run:
                    await self._sessions.deleted()
                done.append(action)
                records = [each for each in records if each.name != action.name]
        return done

    async def _act(self, action: gc.Action, dry_run: bool) -> None:
        if not dry_run:
            archive = action.goal is State.ARCHIVED
            await (self._sessions.archive if archive else self._sessions.remove)(action.name)
