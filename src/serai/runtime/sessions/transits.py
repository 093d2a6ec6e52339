"""The registry's part about sessions that move from one VM to another.

A move has a token, which both VMs keep. At the source (``out``) it is from ``leaving`` on that the
session cannot be started, and at ``left`` it is gone. At the target (``in``) it is ``arriving``
while bytes come, ``arrived`` when all of it is there and verified, and ``committed`` when the
target has it for good. A target that was told ``cancelled`` never takes it any more. What has ended
is kept for ever: else somebody who is late would have a session twice.

A session of a backup is ``awaited`` from when its registry is restored until its export comes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

OUT, IN = "out", "in"
LEAVING, LEFT = "leaving", "left"
ARRIVING, ARRIVED, COMMITTED, CANCELLED = "arriving", "arrived", "committed", "cancelled"
AWAITED = "awaited"

# A table of its own: a Serai of before knows nothing of it, and goes on.
TABLE = """
CREATE TABLE IF NOT EXISTS transits (
    token TEXT NOT NULL, side TEXT NOT NULL, uid INTEGER NOT NULL, name TEXT NOT NULL,
    stage TEXT NOT NULL, peer TEXT NOT NULL, was TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (token, side)
) WITHOUT ROWID
"""
COLUMNS = "token, side, uid, name, stage, peer, was"


@dataclass(frozen=True)
class Transit:
    """A move as one of its two VMs knows it.

    ``peer`` is the target's address as it was given, ``was`` the state that the session had.
    """

    token: str
    side: str
    uid: int
    name: str
    stage: str
    peer: str = ""
    was: str = ""

    def at(self, stage: str) -> Transit:
        """The same at another stage."""
        return replace(self, stage=stage)


class Changeable(Protocol):
    """A registry; which cannot be imported here, since it makes the table."""

    def change(self, does: Callable[[sqlite3.Connection], Any]) -> Any:
        """Carry out changes in one transaction."""


class Transits:
    """The moves that a registry knows."""

    def __init__(self, registry: Changeable) -> None:
        self._registry = registry

    def get(self, token: str, side: str) -> Transit | None:
        """The move with that token."""
        return self._one("token = ? AND side = ?", token, side)

    def leaving(self, uid: int) -> Transit | None:
        """The move that a session is leaving with."""
        return self._one("uid = ? AND side = ? AND stage = ?", uid, OUT, LEAVING)

    def left(self, name: str) -> Transit | None:
        """The last move with which a session of that name has left."""
        return self._one("name = ? AND side = ? AND stage = ?", name, OUT, LEFT)

    def arrival(self, uid: int) -> Transit | None:
        """The move that a session came with."""
        return self._one("uid = ? AND side = ?", uid, IN)

    def awaited(self) -> list[Transit]:
        """The sessions of a backup whose exports have not come yet."""
        query = f"SELECT {COLUMNS} FROM transits WHERE stage = ? ORDER BY uid"  # noqa: S608  # ours

        def read(db: sqlite3.Connection) -> list[Transit]:
            with closing(db.execute(query, (AWAITED,))) as rows:
                return [Transit(*row) for row in rows]

        found: list[Transit] = self._registry.change(read)
        return found

    def note(self, transit: Transit) -> None:
        """Have the registry know that, durably."""
        self._registry.change(lambda db: write(db, transit))

    def forget(self, transit: Transit) -> None:
        """Have it as if that move had never begun."""
        where = "DELETE FROM transits WHERE token = ? AND side = ?"
        self._registry.change(lambda db: db.execute(where, (transit.token, transit.side)))

    def _one(self, where: str, *values: object) -> Transit | None:
        query = f"SELECT {COLUMNS} FROM transits WHERE {where} ORDER BY at DESC LIMIT 1"  # noqa: S608  # ours

        def read(db: sqlite3.Connection) -> Transit | None:
            with closing(db.execute(query, values)) as rows:
                row = rows.fetchone()
            return None if row is None else Transit(*row)

        found: Transit | None = self._registry.change(read)
        return found


def write(db: sqlite3.Connection, transit: Transit) -> None:
    """The same, in a transaction that does more."""
    values = (
        *(transit.token, transit.side, transit.uid, transit.name),
        *(transit.stage, transit.peer, transit.was, time.time()),
    )
    db.execute("INSERT OR REPLACE INTO transits VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
