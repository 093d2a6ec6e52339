"""Sessions that come from an export: made whole, or not at all.

1. The registry has a session in the state ``arriving``, with a UID and a name that nobody uses yet.
2. A program without rights unpacks and verifies the export beside all homes, within what any
   session may have of the disk (``exports.reading``).
3. What it says the session is, is checked as if a client had asked for it, and noted in the audit
   log. Then one transaction makes the session what it is to be.
4. It is put in place, and is ``stopped``. Of a move that waits for ``commit``.

Whatever is cut off before the third step is removed when sessiond starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serai.common import tables
from serai.common.errors import (
    BUSY,
    CONFLICT,
    EXISTS,
    NO_ROOM,
    NOT_FOUND,
    NOT_PERMITTED,
    SeraiError,
)
from serai.common.labels import DOCTOR
from serai.common.paths import Paths
from serai.runtime.folders.exports import form
from serai.runtime.sessions import names, own, transits
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota, staging
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.steps.goals import Goals
from serai.runtime.sessions.transits import Transit, Transits
from serai.runtime.settings import SessionSettings

Unpack = Callable[[Record], Awaitable[None]]
Noted = Callable[[Record], Awaitable[None]]


@dataclass(frozen=True)
class Described:
    """What an export says of its session. The state is the one that it had."""

    name: str
    state: str
    labels: dict[str, str]
    policy: dict[str, Any]
    limits: dict[str, str]
    env: dict[str, str]
    sandbox: str
    created_at: float = field(metadata={"minimum": 0})


def describe(record: Record) -> dict[str, Any]:
    """The same of a session that is exported."""
    return {
        "name": record.name,
        "state": record.state.value,
        "labels": dict(record.labels),
        "policy": dict(record.policy),
        "limits": dict(record.own.limits),
        "env": dict(record.own.env),
        "sandbox": record.own.sandbox,
        "created_at": record.created_at,
    }


class Arrivals:
    """Makes sessions of exports."""

    def __init__(
        self,
        paths: Paths,
        registry: Registry,
        goals: Goals,
        gate: GateClient,
        settings: Callable[[], SessionSettings],
    ) -> None:
        self._paths = paths
        self._registry = registry
        self._goals = goals
        self._gate = gate
        self._settings = settings
        self._transits = Transits(registry)
        self._under_way: set[str] = set()

    async def take(
        self,
        name: str | None,
        token: str | None,
        unpack: Unpack,
        noted: Noted,
        *,
        bindings: bool = False,
    ) -> Record:
        """Have a session of what ``unpack`` puts into its stage. Raises SeraiError.

        With the ``token`` of a move it waits there, complete, for ``commit``. Without ``bindings``
        it may be bound to no secret, also not by its profile.
        """
        if name is not None:
            self._check_name(name)
        with self._alone(token):
            before = self._awaited(token)
            record = self._begin(token) if before is None else self._goals.current(before.uid)
            async with self._goals.locked(record.uid):
                try:
                    with self._goals.steps.arriving(record.uid):
                        self._goals.fault("import:stage")
                        await staging.clear(self._paths, record.uid)
                        staging.make(self._paths, record.uid)
                        await unpack(record)
                        chosen = name if before is None else record.name
                        wanted = await self._described(record, chosen)
                        # A backup's are root's own, as all of its registry.
                        if not bindings and before is None:
                            await self._check_unbound(wanted.name, wanted.policy)
                        await noted(wanted)
                        self._goals.fault("import:become")
                        self._become(wanted, token, before)
                except BaseException:
                    await self._drop(record.uid)
                    raise
                if token is None or before is not None:
                    await self._settle(record.uid)
                return self._goals.current(record.uid)

    def status(self, token: str) -> dict[str, Any]:
        """How far a move is here: unknown, arriving, arrived, committed or cancelled."""
        found = self._transits.get(token, transits.IN)
        stage = "unknown" if found is None or self._is_gone(found) else found.stage
        if stage == transits.ARRIVING and token not in self._under_way:
            stage = "unknown"  # cut off, and to be sent again
        return {"stage": stage, "name": found.name if found else None}

    def record(self, token: str) -> Record | None:
        """The session that is arriving with that move."""
        found = self._transits.get(token, transits.IN)
        return None if found is None or self._is_gone(found) else self._registry.by_uid(found.uid)

    def _is_gone(self, transit: Transit) -> bool:
        """Whether it was removed before it was committed: then it may be sent again."""
        if transit.stage not in (transits.ARRIVING, transits.ARRIVED):
            return False
        record = self._registry.by_uid(transit.uid)
        return record is None or record.state is not State.ARRIVING

    async def commit(self, token: str) -> Record:
        """Have a session that has arrived for good; it is stopped. May be repeated."""
        async with self._goals.locked(self._committable(token).uid):
            found = self._committable(token)  # whoever had the turn before may have cancelled it
            if found.stage == transits.ARRIVED:
                self._goals.fault("commit:journal")
                self._transits.note(found.at(transits.COMMITTED))
            record = self._registry.by_uid(found.uid)
            if record is None or record.state is State.REMOVING:
                raise SeraiError(f"session {found.name} came, and was removed", code=NOT_FOUND)
            if record.state is State.ARRIVING:
                await self._goals.go({found.uid: State.STOPPED})
            return self._goals.current(found.uid)

    def _committable(self, token: str) -> Transit:
        found = self._transits.get(token, transits.IN)
        stages = (transits.ARRIVED, transits.COMMITTED)
        if found is None or found.stage not in stages or self._is_gone(found):
            stage = found.stage if found and not self._is_gone(found) else "unknown"
            raise SeraiError(f"the move is {stage} here, and cannot be committed", code=CONFLICT)
        return found

    async def cancel(self, token: str) -> None:
        """Never take a session with that token. Raises SeraiError if it is committed."""
        found = self._transits.get(token, transits.IN)
        if found is None:
            self._transits.note(Transit(token, transits.IN, 0, "", transits.CANCELLED))
            return
        async with self._goals.locked(found.uid):
            found = self._transits.get(token, transits.IN) or found
            if found.stage == transits.COMMITTED:
                raise SeraiError(
                    f"session {found.name} is here for good",
                    "'serai move' again finishes it",
                    CONFLICT,
                )
            self._goals.fault("cancel:journal")
            self._transits.note(found.at(transits.CANCELLED))
            await self._drop(found.uid)

    async def put_right(self, record: Record) -> None:
        """After a crash: go on with what is complete, and drop what is not."""
        found = self._transits.arrival(record.uid)
        if found is not None and found.stage == transits.COMMITTED:
            await self._goals.go({record.uid: State.STOPPED})
        elif found is None or found.stage not in (transits.ARRIVED, transits.AWAITED):
            await self._drop(record.uid)

    @contextlib.contextmanager
    def _alone(self, token: str | None) -> Iterator[None]:
        if token is None:
            yield
            return
        if token in self._under_way:
            raise SeraiError("the session of this move is arriving just now", "wait", BUSY)
        found = self._transits.get(token, transits.IN)
        free = (transits.ARRIVING, transits.AWAITED)
        if found and found.stage not in free and not self._is_gone(found):
            # One that somebody else has sent is no reason to end the move.
            code = CONFLICT if found.stage == transits.CANCELLED else BUSY
            raise SeraiError(f"the move is {found.stage} here already", code=code)
        self._under_way.add(token)
        try:
            yield
        finally:
            self._under_way.discard(token)

    def _awaited(self, token: str | None) -> Transit | None:
        """The session of a backup that is to come with that token."""
        found = None if token is None else self._transits.get(token, transits.IN)
        return found if found is not None and found.stage == transits.AWAITED else None

    def _begin(self, token: str | None) -> Record:
        """A session that is not there yet, with a name that nobody has."""

        def does(db: sqlite3.Connection) -> Record:
            record, _ = self._registry.add(None, {}, time.time())
            where = "UPDATE sessions SET state = ?, goal = NULL WHERE uid = ?"
            db.execute(where, (State.ARRIVING.value, record.uid))
            if token is not None:
                begun = Transit(token, transits.IN, record.uid, record.name, transits.ARRIVING)
                transits.write(db, begun)
            return record

        self._goals.fault("import:journal")
        return self._goals.current(self._registry.change(does).uid)

    async def check(self, told: Any, name: str | None, *, bindings: bool) -> None:
        """Raise SeraiError if a session that is told of so would be refused; but for its room."""
        said, policy = await self._checked(told)
        self._check_name(said.name if name is None else name)
        if not bindings:
            await self._check_unbound(said.name, policy)

    async def _described(self, record: Record, name: str | None) -> Record:
        """The session as it is to be. Raises SeraiError if it may not be so here."""
        told = staging.told(self._paths, record.uid)
        said, policy = await self._checked(told.get("session"))
        self._check_quota(record.uid, said.limits.get("quota", ""))
        wanted = said.name if name is None else name
        if wanted != record.name:
            self._check_name(wanted)
        created = min(said.created_at, record.created_at)
        mine = Own(said.limits, said.env, said.sandbox)
        found = replace(record, name=wanted, labels=said.labels, created_at=created)
        return replace(found, policy=policy, own=mine)

    async def _checked(self, told: Any) -> tuple[Described, dict[str, Any]]:
        """What an export says of its session, and the policy as the gate has it."""
        try:
            said = tables.read(Described, told)
        except ValueError as error:
            raise form.wrong(f"of its session, {error}") from None
        settings = self._settings()
        own.check_sandbox(said.sandbox, settings)
        own.check_labels(said.labels)
        if DOCTOR in said.labels:  # what such sessions do is counted nowhere
            raise SeraiError(
                f"a session with the label {DOCTOR} is not taken in", code=NOT_PERMITTED
            )
        own.check_env(said.env)
        own.check_limits(said.limits, settings, quota.disk_size(self._paths.sessions))
        policy = await self._gate.call("check", policy=said.policy) if said.policy else {}
        return said, policy

    async def _check_unbound(self, name: str, policy: Mapping[str, Any]) -> None:
        """Raise SeraiError if a session would use secrets of this VM.

        Also by a profile of this VM, whose hosts somebody here has chosen: what is in the home may
        be a stranger's, and act at these hosts as the secret's owner.
        """
        bound = (await self._gate.call("bound", policy=dict(policy)))["bind"]
        if bound:
            by = f"itself or by its profile {policy.get('profile', 'default')}"
            text = f"session {name} is bound to secrets of this VM, {by}: "
            hint = "if it may use them there: --bindings"
            raise SeraiError((text + json.dumps(bound))[:500], hint, NOT_PERMITTED)

    def _check_name(self, name: str) -> None:
        names.check(name, names.system_names(self._paths.root / "etc"))
        taken = any(each.name == name and each.state is not State.REMOVING for each in self._all())
        if taken or os.path.lexists(self._paths.home(name)):
            raise SeraiError(
                f"there is a session {name} already", "give it another name: --name", EXISTS
            )

    def _all(self) -> list[Record]:
        return self._registry.all(pooled=True)

    def _check_quota(self, uid: int, text: str) -> None:
        used = quota.usage(self._paths.sessions, uid)
        whole = quota.Grant(0, 0, quota.disk_size(self._paths.sessions))
        if text and used is not None and used.bytes > quota.least(whole, text):
            raise SeraiError(
                f"it has {used.bytes >> 20} MiB, and a quota of its own of {text}",
                "give it a larger one before it is exported",
                NO_ROOM,
            )

    def _become(self, wanted: Record, token: str | None, before: Transit | None) -> None:
        """Make it what it is to be, in one transaction."""
        goal = State.STOPPED if token is None or before is not None else None
        if before is not None and before.was == State.ARCHIVED.value:
            goal = State.ARCHIVED
        values = (
            *(wanted.name, json.dumps(dict(wanted.labels)), wanted.created_at),
            *(json.dumps(dict(wanted.policy)), json.dumps(wanted.own.stored())),
            goal and goal.value,
        )
        change = "name = ?, labels = ?, created_at = ?, policy = ?, own = ?, goal = ?"

        def does(db: sqlite3.Connection) -> None:
            try:
                db.execute(f"UPDATE sessions SET {change} WHERE uid = ?", (*values, wanted.uid))  # noqa: S608  # ours
            except sqlite3.IntegrityError:
                raise SeraiError(f"there is a session {wanted.name} already", code=EXISTS) from None
            db.execute("INSERT OR IGNORE INTO names VALUES (?)", (wanted.name,))
            if before is not None:
                transits.write(db, before.at(transits.COMMITTED))
            elif token is not None:
                there = (wanted.uid, wanted.name, transits.ARRIVED)
                transits.write(db, Transit(token, transits.IN, *there))

        self._registry.change(does)

    async def _settle(self, uid: int) -> None:
        try:
            await self._goals.go({uid: self._goals.current(uid).goal or State.STOPPED})
        except BaseException:
            if self._transits.arrival(uid) is None:  # one of a backup is kept until it can be put
                await self._drop(uid)
            raise

    async def _drop(self, uid: int) -> None:
        record, found = self._registry.by_uid(uid), self._transits.arrival(uid)
        if found is not None and found.stage == transits.AWAITED:
            await staging.clear(self._paths, uid)  # it may be sent again
        elif record is not None and record.state is State.ARRIVING:
            await self._goals.go({uid: State.REMOVING})
