"""Use wakes a session that freezes when it idles.

A use is what is done in a session: a command, a connection to its port, what somebody types. To
look at a session is none. Where bytes come for what is there already, such as a terminal, only a
session that was frozen for idling wakes, and not one that somebody has switched away from.
"""

from __future__ import annotations

import time

from serai.common.errors import WRONG_STATE, SeraiError
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.supervising.supervisor import Running

TOUCH_EVERY = 60.0


async def awake(sessions: Sessions, name: str) -> tuple[Record, Running]:
    """A session that payloads can be run in, woken if need be. Raises SeraiError for any other."""
    record = await wake(sessions, name)
    running = sessions.running(record)
    if record.state not in (State.READY, State.ACTIVE) or record.goal or running is None:
        state = record.state.value
        hint = f"'serai switch {name}' or 'serai reopen {name}' brings it back"
        raise SeraiError(f"session {name} is {state}, not running", hint, WRONG_STATE)
    if time.time() - record.used_at > TOUCH_EVERY:
        sessions.registry.touch(record.uid, time.time())
    return record, running


async def wake(sessions: Sessions, name: str) -> Record:
    """Let a session that freezes when it idles run, if it is frozen. Raises SeraiError."""
    record = sessions.registry.get(name)
    sessions.uses.note(name)
    if "idle_freeze" in record.own.limits and State.FROZEN in (record.state, record.goal):
        await sessions.settle(name, lambda now: State.READY if now.state is State.FROZEN else None)
        record = sessions.registry.get(name)
    return record


async def traffic(sessions: Sessions, name: str) -> None:
    """Bytes come for what is in a session: if it was frozen for idling it wakes.

    Raises SeraiError.
    """
    if note(sessions, name):
        await wake(sessions, name)


def note(sessions: Sessions, name: str) -> bool:
    """Note that a session is used; returns whether it has to be woken for that."""
    sessions.uses.note(name)
    return name in sessions.uses.asleep
