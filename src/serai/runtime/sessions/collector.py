"""Archives and removes sessions that nobody uses, as retention says, so that the disk has room."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from serai.runtime.sessions import retention
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota

log = logging.getLogger(__name__)
MOST = 3  # sessions that are named when the disk is nearly full


class Collector:
    """One collection at a time."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._collecting = asyncio.Lock()

    def free(self) -> float:
        """How much of the sessions disk is free, in percent."""
        return quota.free(self._sessions.paths.sessions)

    def free_files(self) -> float:
        """How many more files it can have, in percent."""
        return quota.free_files(self._sessions.paths.sessions)

    def users(self) -> str:
        """Who uses most of the disk and of its files, in words."""
        folder, records = self._sessions.paths.sessions, self._sessions.registry.all()
        try:
            found = {each.name: quota.usage(folder, each.uid) for each in records}
        except OSError as error:
            return f"who uses it is not known: {error}"
        known = {name: used for name, used in found.items() if used is not None}
        most = sorted(known, key=lambda name: known[name].bytes, reverse=True)[:MOST]
        many = sorted(known, key=lambda name: known[name].files, reverse=True)[:MOST]
        told = [f"{name} has {known[name].bytes >> 20} MiB" for name in most]
        told += [f"{name} has {known[name].files} files" for name in many]
        return ", ".join(told) or "who uses it is not known without quotas"

    def share(self) -> None:
        """Divide the disk anew among the sessions that can write."""
        self._sessions.share_disk()

    async def make_room(self, keep_free: float, tell: Callable[[retention.Action], None]) -> None:
        """Do by itself what retention says for ``keep_free`` percent of room.

        ``tell`` hears of each action before it is taken.

        Nothing where there are no quotas: who uses how much is not known then.
        """
        async with self._collecting:
            folder = self._sessions.paths.sessions
            records = self._sessions.registry.all()
            used = {each.uid: quota.usage(folder, each.uid) for each in records}
            sizes = {uid: each.bytes for uid, each in used.items() if each is not None}
            if len(sizes) < len(records):
                return
            disk = os.statvfs(folder)
            needed = (keep_free - self.free()) / 100 * disk.f_blocks * disk.f_frsize
            for action in retention.to_fit(records, sizes, int(needed)):
                await self._act(action, tell)
            await self._sessions.deleted()

    async def collect(
        self, keep_days: float | None, keep_free: float | None, *, dry_run: bool = False
    ) -> list[retention.Action]:
        """Archive and remove by age, then remove archived ones for ``keep_free`` percent of room.

        None: no such rule. Returns what was done, or with ``dry_run`` what would be.
        """
        done: list[retention.Action] = []
        async with self._collecting:
            if keep_days is not None:
                done += retention.by_age(self._sessions.registry.all(), time.time(), keep_days)
                for old in done if not dry_run else []:
                    await self._act(old)
            records = self._sessions.registry.all() if keep_free is not None else []
            while action := retention.for_room(records, self.free(), keep_free or 0):
                if not dry_run:
                    await self._act(action)
                    await self._sessions.deleted()
                done.append(action)
                records = [each for each in records if each.name != action.name]
        return done

    async def _act(
        self, action: retention.Action, tell: Callable[[retention.Action], None] = lambda _: None
    ) -> None:
        """Carry one out, unless somebody wants the session again. It is logged before."""
        record = self._sessions.registry.get(action.name)
        if action.goal is State.REMOVING and record.state is not State.ARCHIVED:
            return
        tell(action)
        log.warning("session %s becomes %s: %s", action.name, action.goal.value, action.reason)
        ways = {State.STOPPED: self._sessions.stop, State.ARCHIVED: self._sessions.archive}
        await ways.get(action.goal, self._sessions.remove)(action.name)
        done = {State.STOPPED: "stop", State.ARCHIVED: "archive"}.get(action.goal, "remove")
        self._sessions.notes.by_itself(done, record, reason=action.reason)
