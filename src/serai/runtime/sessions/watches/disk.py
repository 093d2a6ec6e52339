"""Watches how full the sessions disk is: shares it out, tells subscribers, has room made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from serai.common.errors import SeraiError
from serai.runtime.sessions import retention
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.steps.quota import Level
from serai.runtime.settings import Disk

log = logging.getLogger(__name__)
PERIOD = 30.0


class Room(Protocol):
    """The disk, and who makes room on it."""

    def free(self) -> float:
        """How much is free, in percent."""

    def free_files(self) -> float:
        """How many more files there may be, in percent of all."""

    def users(self) -> str:
        """Who uses most, in words."""

    def share(self) -> None:
        """Divide the disk anew among the sessions that can write."""

    async def make_room(self, keep_free: float, tell: Callable[[retention.Action], None]) -> None:
        """Stop who fills the disk, or remove archives; ``tell`` hears what is done."""


async def run(
    wanted: Callable[[], Disk],
    room: Room,
    announce: Callable[[str, dict[str, Any]], None],
    period: float = PERIOD,
) -> None:
    """Look every ``period`` seconds, until cancelled; ``wanted`` says the limits each time.

    Whenever the level has changed it is announced. As long as less than ``act_free`` percent are
    free, room is made, and each session for which that was the end is announced.
    """

    def acted(action: retention.Action) -> None:
        told = {"name": action.name, "goal": action.goal.value, "reason": action.reason}
        announce("disk.acted", told)

    before = Level.FINE
    while True:
        room.share()
        rules = wanted()
        found, files = room.free(), room.free_files()
        now = quota.level(least := min(found, files), rules)
        if now is not before:
            announce("disk.changed", {"level": now.value, "free": round(least, 1)})
            if now is not Level.FINE:
                told = (now.value, found, files, room.users())
                log.warning(
                    "the sessions disk is %s: %.1f %% of it and %.1f %% of its files are free; %s",
                    *told,
                )
        if found < rules.act_free:
            try:
                await room.make_room(rules.act_free, acted)
            except (SeraiError, OSError) as error:
                log.error("no room is made on the sessions disk: %s", error)
        before = now
        await asyncio.sleep(period)
