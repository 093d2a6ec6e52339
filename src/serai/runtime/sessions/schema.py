"""The registry's tables, and the way from one version of them to the next, and back.

An older Serai refuses a registry of a newer one. So whoever goes back to a version lowers the
registry first, with the newer version's own code, while no daemon runs:

    python3 -m serai.runtime.sessions.schema PATH VERSION

The module keeps its name: where going back was cut off, the older version runs it by that.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from serai.common.errors import SeraiError
from serai.runtime.sessions import spares, transits
from serai.runtime.sessions.states import State

VERSION = 6

# What each version added to sessions: an older file is upgraded in place, in one transaction.
TEXT = "TEXT NOT NULL DEFAULT '{}'"
ADDED = {
    2: ("policy", TEXT),
    3: ("own", TEXT),
    4: ("lives_from", "REAL NOT NULL DEFAULT 0"),
    5: ("pooled", "INTEGER NOT NULL DEFAULT 0"),
}
MOVES = 6
"""The version from which on there are sessions on their way to and from other VMs."""

TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (
    uid INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    goal TEXT,
    labels TEXT NOT NULL,
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL,
    used_at REAL NOT NULL,
    policy TEXT NOT NULL DEFAULT '{}',
    own TEXT NOT NULL DEFAULT '{}',
    lives_from REAL NOT NULL DEFAULT 0,
    pooled INTEGER NOT NULL DEFAULT 0
);
-- A name is free again as soon as its data has been moved away to be deleted.
CREATE UNIQUE INDEX one_name ON sessions (name) WHERE state != 'removing';
CREATE UNIQUE INDEX one_active ON sessions (state) WHERE state = 'active';
CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE requests (
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, uid INTEGER NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
"""

LOWERED = "lowered"
"""A table of what an older version has no columns for; there until a newer one takes it back."""


def version(db: sqlite3.Connection) -> int:
    """The version of the tables; 0 if there are none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def raise_(db: sqlite3.Connection, path: Path, first_uid: int) -> None:
    """Make the tables, or bring them to this version, within a transaction. Raises SeraiError."""
    found = version(db)
    if found > VERSION:
        raise SeraiError(
            f"{path} was written by a newer Serai (schema {found})", "upgrade this one"
        )
    if found == 0:
        for statement in TABLES.split(";\n"):
            db.execute(statement)
        db.execute("INSERT INTO counters VALUES ('next_uid', ?)", (first_uid,))
    for name, kind in [each for number, each in ADDED.items() if 0 < found < number]:
        db.execute(f"ALTER TABLE sessions ADD COLUMN {name} {kind}")
    db.execute(transits.TABLE)
    _take_back(db)
    db.execute(f"PRAGMA user_version = {VERSION}")


def lower(db: sqlite3.Connection, to: int) -> None:
    """Bring the tables back to version ``to``, within a transaction.

    What it has no columns for is kept in a table beside them. A session of the pool would look
    like anybody's there, so it is on its way to be removed. Raises SeraiError.
    """
    found = version(db)
    if to >= found:
        return
    if to < MOVES:
        _refuse_moves(db)
    if gone := [name for number, (name, _) in ADDED.items() if to < number <= found]:
        if "pooled" in gone:
            db.execute("UPDATE sessions SET goal = 'removing' WHERE pooled")
        db.execute(f"DROP TABLE IF EXISTS {LOWERED}")
        db.execute(f"CREATE TABLE {LOWERED} AS SELECT uid, {', '.join(gone)} FROM sessions")  # noqa: S608  # ours
        for name in gone:
            db.execute(f"ALTER TABLE sessions DROP COLUMN {name}")
    db.execute(f"PRAGMA user_version = {to}")


def _refuse_moves(db: sqlite3.Connection) -> None:
    """An older version knows no such state, and would have to guess whose the session is."""
    on_its_way = (State.ARRIVING.value, State.MOVING.value)
    found = db.execute("SELECT name FROM sessions WHERE state IN (?, ?)", on_its_way).fetchall()
    if found:
        raise SeraiError(
            f"{', '.join(name for (name,) in found)} moves from or to another VM,"
            " which an older Serai cannot",
            "finish the move or cancel it, with 'serai move', and go back then",
        )


def _take_back(db: sqlite3.Connection) -> None:
    """Put what was lowered where it was. UIDs are never used twice, so a row's is its own."""
    kept = [str(row[1]) for row in db.execute(f"PRAGMA table_info({LOWERED})")]
    if not kept:
        return
    for name in kept:
        if name in (each for each, _ in ADDED.values()):
            db.execute(
                f"UPDATE sessions SET {name} = kept.{name} FROM {LOWERED} AS kept"  # noqa: S608  # ours
                " WHERE kept.uid = sessions.uid"
            )
    db.execute(f"DROP TABLE {LOWERED}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m serai.runtime.sessions.schema")
    parser.add_argument("path", type=Path)
    parser.add_argument("version", type=int)
    arguments = parser.parse_args()
    spares.take(arguments.path)
    try:
        with closing(sqlite3.connect(arguments.path, timeout=30, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            lower(db, arguments.version)
            db.execute("COMMIT")
    except (sqlite3.Error, SeraiError) as error:
        print(f"serai: the registry {arguments.path} cannot be lowered: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
