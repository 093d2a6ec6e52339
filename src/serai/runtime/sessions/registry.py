"""The registry: which sessions there are, in which state, and which UIDs were ever given out.

SQLite in WAL mode. A durable transaction is on the disk when its call returns (synchronous=FULL,
https://www.sqlite.org/pragma.html#pragma_synchronous); one that is not survives kill -9 of the
daemon and may be lost in a power cut, which is used only for what reconciling finds out anyway.

A row's ``goal`` is the journal: it is set, durably, before an operation acts, and cleared when the
session has arrived. Several processes may use one registry at once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serai.common.errors import CONFLICT, EXISTS, NOT_FOUND, SeraiError
from serai.runtime.sessions import names, numbers, schema, spares
from serai.runtime.sessions.own import Own, seconds
from serai.runtime.sessions.states import TIMELESS, State

FIRST_UID = 2000
# Left out: what systemd, containers and /etc/subuid use (https://systemd.io/UIDS-GIDS/).
UID_RANGES = ((FIRST_UID, 60000), (200000, 524288))
REQUEST_LIFETIME = 7 * 86400.0


@dataclass(frozen=True)
class Record:
    """A session's row. Times are seconds since the epoch; the GID is the UID.

    ``policy`` is the gate's: a profile, and rules of the session's own. ``own``: what it has else.
    ``lives_from`` is when its time to live began, if it has one. ``pooled``: it waits in the pool,
    or is made for it or removed from it, and is nobody's.
    """

    uid: int
    name: str
    state: State
    goal: State | None
    labels: Mapping[str, str]
    created_at: float
    changed_at: float
    used_at: float
    policy: Mapping[str, Any] = field(default_factory=dict)
    own: Own = field(default_factory=Own)
    lives_from: float = 0.0
    pooled: bool = False

    @property
    def ends_at(self) -> float | None:
        """When its time to live is over; None if it has none, or is archived."""
        ttl = self.own.limits.get("ttl")
        if ttl is None or self.state in TIMELESS:
            return None
        return self.lives_from + seconds(ttl)


class Registry:
    """One connection to the registry file, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        spares.take(path)
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise SeraiError(f"cannot open the registry {path}: {error}") from error
        with self._transaction():
            schema.raise_(self._db, path, FIRST_UID)
        spares.make(path)

    def close(self) -> None:
        self._db.close()
        spares.make(self._path)

    def add(
        self,
        name: str | None,
        labels: Mapping[str, str],
        now: float,
        request: tuple[str, str] | None = None,
        policy: Mapping[str, Any] | None = None,
        *,
        own: Own | None = None,
        waiting: int | None = None,
    ) -> tuple[Record, bool]:
        """A new session in state creating with the goal ready, and True.

        Without a name it gets one that was never used, or is the one with the UID ``waiting`` if
        that waits in the pool: from then on it is a session as if it had been made now.
        ``request`` is a client's request id with a fingerprint of what it asked for: if that id was
        seen before, the session it made is returned, with False.

        Raises SeraiError if the name is taken, or the id was used for something else.
        """
        with self._transaction():
            if request is not None and (known := self._known_request(*request)) is not None:
                return known, False
            taken = self._take_waiting(waiting) if name is None else None
            if name is None and taken is None:
                name = names.make_up(self._name_was_used)
            if name and (other := self._one("name = ? AND state != 'removing'", name)):
                waits = ", which waits in the pool; choose another name" if other.pooled else ""
                raise SeraiError(f"there is a session {name} already{waits}", code=EXISTS)
            uid, name = taken or (self._take_uid(), str(name))
            extras = (policy or {}, own or Own())
            new = Record(
                *(uid, name, State.CREATING, State.READY, labels, now, now, now, *extras),
                lives_from=now,
            )
            self._insert(new)
            if request is not None:
                self._db.execute("INSERT INTO requests VALUES (?, ?, ?, ?)", (*request, uid, now))
            return new, True

    def together(self, changes: Sequence[Callable[[], Any]]) -> list[Any]:
        """Carry out changes in one transaction, which is durable when this returns.

        Each one's result, or the SeraiError that it raised: then it alone changed nothing.
        """
        done: list[Any] = []
        with self._transaction():
            for change in changes:
                try:
                    done.append(change())
                except SeraiError as error:
                    done.append(error)
        return done

    def change(self, does: Callable[[sqlite3.Connection], Any]) -> Any:
        """What a module beside this one changes, in one transaction."""
        with self._transaction():
            return does(self._db)

    def copy(self, path: Path) -> None:
        """A whole copy of it as of now, in a file that is not there yet; VACUUM INTO."""
        self._db.execute("VACUUM INTO ?", (str(path),))

    def add_pooled(self, policy: Mapping[str, Any], own: Own, now: float) -> Record:
        """A session to be made for the pool: in state creating with the goal ready."""
        with self._transaction():
            uid, name = self._take_uid(), names.make_up(self._name_was_used)
            times, extras = (now, now, now), (policy, own)
            new = Record(
                *(uid, name, State.CREATING, State.READY, {}, *times, *extras), now, pooled=True
            )
            self._insert(new)
            return new

    def adopt(self, uid: int, name: str, state: State, now: float) -> None:
        """Take in a session of which only the home is left, from a registry that was lost."""
        with self._transaction():
            self._insert(Record(uid, name, state, None, {}, now, now, now))

    def restore(self, record: Record) -> None:
        """Have one of a backup again, which is not there yet."""
        with self._transaction():
            self._insert(replace(record, state=State.ARRIVING, goal=None))

    def reserve_uids(self, up_to: int) -> None:
        """See to it that no UID up to and including ``up_to`` is given out any more."""
        with self._transaction():
            self._db.execute(
                "UPDATE counters SET value = max(value, ?) WHERE name = 'next_uid'", (up_to + 1,)
            )

    def begin(self, goals: Mapping[int, State]) -> None:
        """Journal, durably and at once, where sessions (by UID) are about to go."""
        with self._transaction():
            for uid, goal in goals.items():
                self._db.execute("UPDATE sessions SET goal = ? WHERE uid = ?", (goal.value, uid))

    def arrive(self, states: Mapping[int, State], now: float) -> None:
        """Note, at once, which states sessions (by UID) are in now; their goals are cleared.

        The time to live of one that was archived begins anew.

        Not durable: where this is lost the goal is still there, and the plan is run again.
        """
        # One after another may be active: leave the state before another row enters it.
        ordered = sorted(states.items(), key=lambda item: item[1] is State.ACTIVE)
        with self._transaction(durable=False):
            for uid, state in ordered:
                self._db.execute(
                    "UPDATE sessions SET state = ?, goal = NULL, changed_at = ?,"
                    " lives_from = CASE state WHEN ? THEN ? ELSE lives_from END WHERE uid = ?",
                    (state.value, now, State.ARCHIVED.value, now, uid),
                )

    def set_policy(self, uid: int, policy: Mapping[str, Any]) -> None:
        """Note what a session may reach."""
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET policy = ? WHERE uid = ?", (json.dumps(dict(policy)), uid)
            )

    def set_own(self, uid: int, labels: Mapping[str, str], own: Own, lives_from: float) -> None:
        """Note what a session has of its own, and since when its time to live counts."""
        stored = json.dumps(dict(labels)), json.dumps(own.stored()), lives_from
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET labels = ?, own = ?, lives_from = ? WHERE uid = ?",
                (*stored, uid),
            )

    def touch(self, uid: int, now: float) -> None:
        """Note that a session was used."""
        with self._transaction(durable=False):
            self._db.execute("UPDATE sessions SET used_at = ? WHERE uid = ?", (now, uid))

    def forget(self, uid: int) -> None:
        """Drop the row of a session whose data is gone. Its UID and name stay used."""
        with self._transaction():
            self._db.execute("DELETE FROM sessions WHERE uid = ?", (uid,))

    def prune_requests(self, now: float) -> None:
        """Forget request ids that nobody repeats any more."""
        with self._transaction(durable=False):
            self._db.execute("DELETE FROM requests WHERE at < ?", (now - REQUEST_LIFETIME,))

    def get(self, name: str) -> Record:
        """The session of that name. Raises SeraiError if there is none."""
        # All names are ASCII, and SQLite takes no lone surrogates.
        where = "name = ? AND state != 'removing' AND NOT pooled"
        found = self._one(where, name) if name.isascii() else None
        if found is None:
            raise SeraiError(f"there is no session {name}", "'serai list' shows all", NOT_FOUND)
        return found

    def by_uid(self, uid: int) -> Record | None:
        return self._one("uid = ?", uid)

    def active(self) -> Record | None:
        """The one session that is active, if any."""
        return self._one("state = ?", State.ACTIVE.value)

    def all(self, *, pooled: bool = False) -> list[Record]:
        """Every session, those whose data is being deleted too, oldest first.

        Those of the pool only if asked for.
        """
        every = "SELECT * FROM sessions WHERE pooled <= ? ORDER BY uid"
        with closing(self._db.execute(every, (pooled,))) as rows:
            return [_record(row) for row in rows]

    def timed(self) -> list[Record]:
        """The sessions that freeze when they idle, or have a time to live; also a few others."""
        where = "own LIKE '%idle_freeze%' OR own LIKE '%ttl%'"
        with closing(self._db.execute(f"SELECT * FROM sessions WHERE {where}")) as rows:  # noqa: S608  # ours
            return [_record(row) for row in rows]

    def _known_request(self, request: str, fingerprint: str) -> Record | None:
        row = self._db.execute(
            "SELECT fingerprint, uid FROM requests WHERE id = ?", (request,)
        ).fetchone()
        if row is None:
            return None
        if row[0] != fingerprint:
            raise SeraiError(f"request id {request!r} was used for another request", code=CONFLICT)
        found = self.by_uid(row[1])
        if found is None or found.state is State.REMOVING:
            raise SeraiError(f"the session that request {request!r} made is removed", code=CONFLICT)
        return found

    def _take_waiting(self, waiting: int | None) -> tuple[int, str] | None:
        """Take that one out of the pool, if it is whole and there: its UID and name.

        Its row goes, and its creator's takes the place in the same transaction. So whoever else is
        given the same UID by mistake finds nothing.
        """
        found = None if waiting is None else self.by_uid(waiting)
        if found is None or not found.pooled or found.goal or found.state is not State.READY:
            return None
        self._db.execute("DELETE FROM sessions WHERE uid = ?", (found.uid,))
        return found.uid, found.name

    def _take_uid(self) -> int:
        value = self._db.execute("SELECT value FROM counters WHERE name = 'next_uid'").fetchone()[0]
        for first, end in UID_RANGES:
            free = (uid for uid in range(max(int(value), first), end) if not numbers.taken(uid))
            if uid := next(free, 0):
                self._db.execute(
                    "UPDATE counters SET value = ? WHERE name = 'next_uid'", (uid + 1,)
                )
                return uid
        raise SeraiError("every UID for sessions has been used", "start with a new sessions disk")

    def _insert(self, new: Record) -> None:
        self._db.execute("INSERT OR IGNORE INTO names VALUES (?)", (new.name,))
        goal, labels = new.goal and new.goal.value, json.dumps(dict(new.labels))
        times = (new.created_at, new.changed_at, new.used_at)
        extras = (json.dumps(new.policy), json.dumps(new.own.stored()))
        self._db.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.uid, new.name, new.state.value, goal, labels, *times, *extras),
                *(new.lives_from, new.pooled),
            ),
        )

    def _name_was_used(self, name: str) -> bool:
        row = self._db.execute("SELECT 1 FROM names WHERE name = ?", (name,)).fetchone()
        return row is not None

    def _one(self, where: str, value: object) -> Record | None:
        row = self._db.execute(f"SELECT * FROM sessions WHERE {where}", (value,)).fetchone()  # noqa: S608  # ours
        return None if row is None else _record(row)

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        if self._db.in_transaction:
            with self._savepoint():
                yield
            return
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise SeraiError(
                f"the registry cannot be written: {error}", "is the sessions disk full?"
            ) from error

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """A part of a transaction that may fail by itself."""
        self._db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back all of it
                self._db.execute("ROLLBACK TO part")
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("RELEASE part")


def _record(
    row: tuple[int, str, str, str | None, str, float, float, float, str, str, float, int],
) -> Record:
    uid, name, state, goal, labels, *times, policy, own, lives_from, pooled = row
    goal_state = None if goal is None else State(goal)
    created, changed, used = times
    return Record(
        *(uid, name, State(state), goal_state, json.loads(labels)),
        *(created, changed, used, json.loads(policy), Own(**json.loads(own))),
        lives_from=lives_from,
        pooled=bool(pooled),
    )
