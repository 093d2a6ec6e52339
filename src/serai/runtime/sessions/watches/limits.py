"""Tells subscribers that a session has met a limit: of memory, of tasks, or of the disk.

It looks every few seconds and tells how often since it looked before. So a session that meets a
limit a million times makes no more noise than one that does so once. As long as nobody subscribes,
it does not look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from serai.common.jsonrpc_server import Subscribers
from serai.runtime.sandbox import cgroups, usage
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.steps.quota import Usage

PERIOD = 10.0
FULL = 64 << 10
"""Bytes below its quota from which on a session can write next to nothing."""
Met = Mapping[str, int]
Start = tuple[str, int]


async def run(
    running: Callable[[], Iterable[tuple[Start, Met]]],
    subscribers: Subscribers,
    period: float = PERIOD,
) -> None:
    """Look every ``period`` seconds while there are subscribers, until cancelled.

    ``running`` has the name and PID of each session that runs, and how often it has met each limit
    since its start. What was met before the first look has been told, or nobody listened.
    """
    while True:
        await subscribers.wait()
        before = dict(running())
        while subscribers:
            await asyncio.sleep(period)
            now = dict(running())
            for start, met in now.items():
                for limit, count in met.items():
                    if (more := count - before.get(start, {}).get(limit, 0)) > 0:
                        told = {"name": start[0], "limit": limit, "count": more}
                        subscribers.announce("session.limited", told)
            before = now


def look(sessions: Sessions) -> Iterable[tuple[Start, Met]]:
    """What ``run`` asks for."""
    for record in sessions.registry.all():
        unit = sessions.running(record)
        if unit is not None and unit.cgroup is not None:
            used = None
            with contextlib.suppress(OSError):
                used = quota.usage(sessions.paths.sessions, record.uid)
            yield (record.name, unit.main), met(unit.cgroup, used)


def met(cgroup: Path, used: Usage | None) -> Met:
    """How often a session has met each limit; of the disk: whether it is full now."""
    return {
        "memory": cgroups.out_of_memory(cgroup),
        "tasks": usage.refused(cgroup) or 0,
        "quota": int(used is not None and _full(used)),
    }


def _full(used: Usage) -> bool:
    space = used.bytes_limit and used.bytes + FULL > used.bytes_limit
    return bool(space or (used.files_limit and used.files >= used.files_limit))
