"""Watches how full the sessions disk is: tells subscribers, and has archived sessions removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from serai.runtime.errors import SeraiError
from serai.runtime.sessions import quota
from serai.runtime.sessions.quota import Level
from serai.runtime.settings import Disk

log = logging.getLogger(__name__)
PERIOD = 30.0


class Room(Protocol):
    """The disk, and who makes room on it."""

    def free(self) -> float:
        """How much is free, in percent."""

    async def collect(self, keep_days: float | None, keep_free: float | None) -> object:
        """Remove archived sessions until ``keep_free`` percent are free."""


async def disk(
    rules: Disk,
    room: Room,
    announce: Callable[[str, dict[str, Any]], None],
    period: float = PERIOD,
) -> None:
    """Look every ``period`` seconds, until cancelled.

    Whenever the level has changed it is announced; as long as it is very low, room is made.
    """
    before = Level.FINE
    while True:
        now = quota.level(found := room.free(), rules)
        if now is not before:
            announce("disk.changed", {"level": now.value, "free": round(found, 1)})
            if now is not Level.FINE:
                log.warning("the sessions disk is %s: %.1f %% free", now.value, found)
        if now is Level.VERY_LOW:
            try:
                await room.collect(None, rules.act_free)
            except (SeraiError, OSError) as error:
                log.error("no room is made on the sessions disk: %s", error)
        before = now
        await asyncio.sleep(period)
