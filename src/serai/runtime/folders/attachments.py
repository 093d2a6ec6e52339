"""Which folders are attached to which sessions: one table beside the registry's, in its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from serai.common.errors import SeraiError

SCHEMA = """
CREATE TABLE IF NOT EXISTS attachments (
    uid INTEGER NOT NULL,
    role TEXT NOT NULL,
    path TEXT NOT NULL,
    writable INTEGER NOT NULL,
    host_path TEXT NOT NULL,
    kind TEXT NOT NULL,
    attached INTEGER NOT NULL,
    PRIMARY KEY (uid, role)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Attachment:
    """A folder of the VM and the role that it has in a session.

    ``path`` is absolute, ``host_path`` what the host calls it ('' if nobody said). ``kind`` is
    ``auto``, ``idmap`` or ``bindfs``. One that is not ``attached`` any more is only remembered.
    """

    role: str
    path: str
    writable: bool
    host_path: str = ""
    kind: str = "auto"
    attached: bool = True


class Attachments:
    """The table, on a connection of its own. Every change is on the disk when its call returns."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._change(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def of(self, uid: int) -> dict[str, Attachment]:
        """What a session has, by role; those that are only remembered too."""
        columns = "role, path, writable, host_path, kind, attached"
        query = f"SELECT {columns} FROM attachments WHERE uid = ?"  # noqa: S608  # ours
        with closing(self._db.execute(query, (uid,))) as rows:
            found = [Attachment(a, b, bool(c), d, e, bool(f)) for a, b, c, d, e, f in rows]
        return {each.role: each for each in found}

    def put(self, uid: int, new: Attachment) -> None:
        """Note an attachment, in the place of the role's one before."""
        row = (uid, new.role, new.path, new.writable, new.host_path, new.kind, new.attached)
        self._change("INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def drop(self, uid: int, role: str) -> None:
        """Forget one."""
        self._change("DELETE FROM attachments WHERE uid = ? AND role = ?", (uid, role))

    def keep(self, uids: Iterable[int]) -> None:
        """Forget those of every session but these."""
        query = "SELECT DISTINCT uid FROM attachments"
        with closing(self._db.execute(query)) as rows:
            gone = {row[0] for row in rows} - set(uids)
        for uid in gone:
            self._change("DELETE FROM attachments WHERE uid = ?", (uid,))

    def _change(self, statement: str, values: tuple[object, ...] = ()) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise SeraiError(
                f"the registry cannot be written: {error}", "is the sessions disk full?"
            ) from error
