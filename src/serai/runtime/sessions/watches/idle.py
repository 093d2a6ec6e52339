"""Freezes sessions that idle, and archives those whose time to live is over.

Only sessions that have such a limit of their own are looked at. What counts is work, not calls: CPU
time, bytes and connections through the gate, and uses (``uses``). What nobody counts may be work.

Idling begins anew with sessiond: at worst a session is frozen later. A time to live is in the
registry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serai.common.errors import SeraiError
from serai.runtime.sandbox import usage
from serai.runtime.sessions.own import seconds
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps.gate_client import GateClient

log = logging.getLogger(__name__)
PERIOD = 10.0
PATIENCE = 1.0
"""Seconds for a gate that does not answer."""
CPU = 0.01
"""How much of a CPU a session uses that idles: a server's timers, and less than any work."""
_TOLD = {
    State.FROZEN: ("idle_freeze", "it idled"),
    State.ARCHIVED: ("ttl", "its time to live is over"),
}
"""The limit that was met, and the reason in words."""
_OPERATIONS = {State.FROZEN: "freeze", State.ARCHIVED: "archive"}
_TRAFFIC = ("sent", "received", "allowed", "denied")
Announce = Callable[[str, dict[str, Any]], None]
Start = tuple[str, int]
Counted = tuple[float, int]


@dataclass(frozen=True)
class Look:
    """A look at a session that runs, or is frozen; times are of time.monotonic().

    ``counted`` are seconds of CPU time, and bytes and connections through the gate, so far; None if
    nobody says. ``worked`` is the last look at which it had done something, and ``called``:
    something had come through the gate since the look before.
    """

    at: float
    counted: Counted | None
    worked: float
    called: bool = False


def seen(before: Look | None, at: float, counted: Counted | None) -> Look:
    """What is to be remembered of a look."""
    if before is None or before.counted is None or counted is None:
        return Look(at, counted, worked=at)
    cpu, traffic = counted[0] - before.counted[0], counted[1] - before.counted[1]
    # The gate counts anew when it was started again.
    works = traffic != 0 or cpu > CPU * (at - before.at)
    return Look(at, counted, at if works else before.worked, called=traffic > 0)


def decide(
    record: Record, now: float, look: Look | None, used: float, *, asleep: bool
) -> State | None:
    """What a session is to become at ``now``, if anything: archived, frozen, or ready again.

    ``look`` is the last one, if it runs. ``used`` (time.monotonic()) is its last use, and it is
    ``asleep`` if it was frozen for idling.
    """
    if record.goal is not None:
        return None
    if record.ends_at is not None and now >= record.ends_at:
        return State.ARCHIVED
    limit = record.own.limits.get("idle_freeze")
    if limit is None or look is None:
        return None
    if record.state is State.FROZEN:
        return State.READY if look.called and asleep else None
    idle = look.at - max(look.worked, used)
    runs = record.state in (State.READY, State.ACTIVE)
    return State.FROZEN if runs and idle >= seconds(limit) else None


async def run(
    sessions: Sessions, gate: GateClient, announce: Announce, period: float = PERIOD
) -> None:
    """Look every ``period`` seconds, until cancelled."""
    before: dict[Start, Look] = {}
    while True:
        try:
            before = await look(sessions, gate, announce, before)
        except (SeraiError, OSError) as error:
            log.error("no session is frozen or archived: %s", error)
        await asyncio.sleep(period)


async def look(
    sessions: Sessions, gate: GateClient, announce: Announce, before: Mapping[Start, Look]
) -> dict[Start, Look]:
    """Look once, and do what is due; returns what to remember until the next look."""
    records = sessions.registry.timed()
    sent = await _traffic(sessions, gate, records)
    at = time.monotonic()
    found: dict[Start, Look] = {}
    work = []
    for record in records:
        mine = None
        unit = sessions.running(record)
        if unit is not None and unit.cgroup is not None:
            start = (record.name, unit.main)
            cpu, through = usage.cpu_seconds(unit.cgroup), sent.get(record.name)
            counted = None if cpu is None or through is None else (cpu, through)
            mine = found[start] = seen(before.get(start), at, counted)
        if _due(sessions, record, mine) is not None:
            work.append(_act(sessions, record, mine, announce))
    # All at once: none of them can make the others wait.
    await asyncio.gather(*work)
    return found


def _due(sessions: Sessions, record: Record, look: Look | None) -> State | None:
    used, asleep = sessions.uses.last(record.name), record.name in sessions.uses.asleep
    return decide(record, time.time(), look, used, asleep=asleep)


async def _traffic(sessions: Sessions, gate: GateClient, records: list[Record]) -> dict[str, int]:
    """What has gone through the gate for each session; nothing if it does not say."""
    if not any("idle_freeze" in each.own.limits and sessions.running(each) for each in records):
        return {}
    try:
        counts = await asyncio.wait_for(gate.call("counts"), PATIENCE)
    except (SeraiError, asyncio.TimeoutError):
        return {}
    return {name: sum(each[key] for key in _TRAFFIC) for name, each in counts.items()}


async def _act(sessions: Sessions, record: Record, mine: Look | None, announce: Announce) -> None:
    """Freeze, wake or archive a session, unless it was used meanwhile; say so."""
    name = record.name
    try:
        goal = await sessions.settle(name, lambda now: _due(sessions, now, mine))
    except (SeraiError, OSError) as error:
        sessions.uses.note(name)  # not again at each look
        log.error("session %s is not frozen, woken or archived: %s", name, error)
        return
    if goal not in _TOLD:
        return
    if goal is State.FROZEN:
        sessions.uses.asleep.add(name)
    limit, reason = _TOLD[goal]
    sessions.reasons[record.uid] = reason
    log.info("session %s is %s: %s", name, goal.value, reason)
    sessions.notes.by_itself(_OPERATIONS[goal], record, reason=reason)
    announce("session.limited", {"name": name, "limit": limit, "count": 1})
