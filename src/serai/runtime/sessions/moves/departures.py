"""Sessions that leave for another VM: not started here until it is known who has them.

``begin`` stops one and locks it away, under a token that the target gets too. Only ``end`` leads
from there: the target has it for good, and it is removed here, or never gets it, and it comes back.
Both may be repeated, and a crash in between changes nothing: the token is in the registry first.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from serai.common.errors import CONFLICT, NOT_FOUND, WRONG_STATE, SeraiError
from serai.runtime.sessions import transits
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.states import GOALS, State
from serai.runtime.sessions.steps.goals import Goals
from serai.runtime.sessions.transits import Transit, Transits

Noted = Callable[[Record, str], Awaitable[None]]


class Departures:
    """Goals away from this VM."""

    def __init__(self, registry: Registry, goals: Goals) -> None:
        self._registry = registry
        self._goals = goals
        self._transits = Transits(registry)

    async def begin(self, name: str, to: str, noted: Noted) -> Transit:
        """Let a session leave for the address ``to``; again, the same. Raises SeraiError.

        One that has left is told, too: so who asks again learns what became of it. ``noted`` has it
        in the audit log, with its token.
        """
        try:
            uid = self._registry.get(name).uid
        except SeraiError as error:
            left = self._transits.left(name)
            if error.code != NOT_FOUND or left is None or left.peer != to:
                raise
            return left
        async with self._goals.locked(uid):
            record = self._goals.current(uid)
            found = self._transits.leaving(uid)
            if found is not None and found.peer != to:
                raise SeraiError(
                    f"session {name} is being moved to {ascii(found.peer)[:200]}",
                    f"finish that, or end it with: serai move {name} --cancel",
                    CONFLICT,
                )
            if State.MOVING not in GOALS[record.state] and record.state is not State.MOVING:
                raise SeraiError(f"session {name} is {record.state.value}", code=WRONG_STATE)
            if found is None:
                was = (uuid.uuid4().hex, transits.OUT, uid, name, transits.LEAVING, to)
                found = Transit(*was, record.state.value)
                await noted(record, found.token)
                self._goals.fault("move:token")
                self._transits.note(found)
            if record.state is not State.MOVING:
                await self._goals.go({uid: State.MOVING})
            return found

    def record(self, token: str) -> Record | None:
        """The session that is leaving with that move."""
        found = self._transits.get(token, transits.OUT)
        record = None if found is None else self._registry.by_uid(found.uid)
        return None if record is None or record.state is State.REMOVING else record

    def leaving(self, name: str) -> Transit:
        """The move that a session is leaving with. Raises SeraiError."""
        found = self._transits.leaving(self._registry.get(name).uid)
        if found is None:
            raise SeraiError(f"session {name} is not being moved", code=WRONG_STATE)
        return found

    async def end(self, name: str, token: str, *, moved: bool) -> None:
        """Remove a session that the target has for good, or have it back. Raises SeraiError."""
        found = self._transits.get(token, transits.OUT)
        if found is None or found.name != name:
            raise SeraiError(f"session {name} is not being moved under this token", code=CONFLICT)
        async with self._goals.locked(found.uid):
            found = self._transits.get(token, transits.OUT)
            if found is None or (found.stage == transits.LEFT and not moved):
                raise SeraiError(f"the move of {name} has ended otherwise", code=CONFLICT)
            if moved:
                self._goals.fault("move:left")
                self._transits.note(found.at(transits.LEFT))
                await self._remove(found.uid)
                return
            record = self._goals.current(found.uid)
            if record.state is State.MOVING:
                archived = found.was == State.ARCHIVED.value
                await self._goals.go({found.uid: State.ARCHIVED if archived else State.STOPPED})
            self._goals.fault("move:back")
            self._transits.forget(found)

    async def put_right(self, record: Record) -> None:
        """After a crash: remove one that has left."""
        if self._transits.leaving(record.uid) is None:
            await self._remove(record.uid)

    async def _remove(self, uid: int) -> None:
        record = self._registry.by_uid(uid)
        if record is not None and record.state is State.MOVING:
            await self._goals.go({uid: State.REMOVING})
