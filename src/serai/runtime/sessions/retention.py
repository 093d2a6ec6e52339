"""Which sessions to archive or remove. Pure: the caller measures, and acts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import State

DAY = 86400.0
KEEP_LABEL = "keep"
WRITING = frozenset({State.READY, State.ACTIVE})
IDLE = frozenset({State.READY, State.FROZEN, State.STOPPED})


@dataclass(frozen=True)
class Action:
    """What to do with a session: ``goal`` is stopped, archived or removing.

    ``reason`` is for people.
    """

    name: str
    goal: State
    reason: str


def by_age(records: Iterable[Record], now: float, keep_days: float) -> list[Action]:
    """Archive what nobody used for ``keep_days``, remove what has been archived for as long.

    The active session and those with the label ``keep`` stay as they are.
    """
    actions = []
    for record in _collectable(records):
        idle = (now - record.used_at) / DAY
        archived = (now - record.changed_at) / DAY
        if record.state in IDLE and idle > keep_days:
            actions.append(Action(record.name, State.ARCHIVED, f"not used for {idle:.0f} days"))
        elif record.state is State.ARCHIVED and archived > keep_days:
            actions.append(Action(record.name, State.REMOVING, f"archived for {archived:.0f} days"))
    return actions


def for_room(records: Iterable[Record], free: float, keep_free: float) -> Action | None:
    """The next session to remove so that ``keep_free`` percent of the sessions disk become free.

    The archived one that was not used for longest; None if there is room (``free`` percent) or
    nothing left to remove. The caller measures again after each.
    """
    archived = [record for record in _collectable(records) if record.state is State.ARCHIVED]
    if free >= keep_free or not archived:
        return None
    oldest = min(archived, key=lambda record: (record.used_at, record.uid))
    return Action(oldest.name, State.REMOVING, f"{free:.0f} % free, {keep_free:g} % wanted")


def to_fit(records: Iterable[Record], used: Mapping[int, int], needed: int) -> list[Action]:
    """What to do by itself to free ``needed`` bytes of a disk that is nearly full.

    ``used`` has the bytes of each session by UID. Nothing is removed because of what others write:
    as long as sessions that are not archived use most, the one that uses most of those that can
    write is stopped, and that is all. Else the archived ones go that were not used for longest, if
    that is enough.
    """
    kept = [each for each in records if each.state is not State.REMOVING]
    archived = [each for each in kept if each.state is State.ARCHIVED]
    others = [each for each in kept if each.state is not State.ARCHIVED]

    def use(record: Record) -> int:
        return used.get(record.uid, 0)

    if sum(map(use, others)) >= sum(map(use, archived)):
        writing = [each for each in others if each.state in WRITING and each.goal is None]
        most = max(writing, key=use, default=None)
        reason = "it uses the most of a disk that is nearly full"
        return [Action(most.name, State.STOPPED, reason)] if most else []
    actions, freed = [], 0
    for each in sorted(_collectable(archived), key=lambda record: (record.used_at, record.uid)):
        if freed < needed and use(each):
            freed += use(each)
            reason = f"archived, with {use(each) >> 20} MiB of a disk that is nearly full"
            actions.append(Action(each.name, State.REMOVING, reason))
    return actions if freed >= needed else []


def _collectable(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.goal is None and KEEP_LABEL not in record.labels]
