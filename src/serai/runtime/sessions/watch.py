"""Watches how full the sessions disk is: tells subscribers, and has archived sessions removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from serai.runtime.errors import SeraiError
from serai.runtime.sessions import quota
from serai.runtime.sessions.quota import Level
from serai.runtime.settings import Disk

log = logging.getLogger(__name__)
PERIOD = 30.0


async def disk(
    rules: Disk,
    free: Callable[[], float],
    tell: Callable[[str, dict[str, Any]], None],
    make_room: Callable[[], Awaitable[object]],
    period: float = PERIOD,
) -> None:
    """Look every ``period`` seconds, until cancelled.

    ``free`` gives percent. ``tell`` is called with an event whenever the level has changed,
    ``make_room`` every time that it is very low.
    """
    before = Level.FINE
    while True:
        now = quota.level(found := free(), rules)
        if now is not before:
            tell("disk.changed", {"level": now.value, "free": round(found, 1)})
            if now is not Level.FINE:
                log.warning("the sessions disk is %s: %.1f %% free", now.value, found)
        if now is Level.VERY_LOW:
            try:
                await make_room()
            except (SeraiError, OSError) as error:
                log.error("no room is made on the sessions disk: %s", error)
        before = now
        await asyncio.sleep(period)
