"""A registry of a backup that somebody has changed, who made its digests anew."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.moves import restoring
from serai.runtime.sessions.registry import Registry
from serai.runtime.sessions.steps import homes

TRIGGER = (
    "CREATE TRIGGER later AFTER UPDATE ON sessions BEGIN"
    " UPDATE sessions SET uid = 0 WHERE uid = new.uid; END"
)


@pytest.mark.parametrize(
    "change",
    [
        *("uid = 0", "uid = 1000", "uid = 4294967295", "uid = -1"),
        *("name = '../../etc'", "name = 'root'", "name = ''", "name = x'00'"),
        *("state = 'none'", "own = '[]'", "own = '{\"no\": 1}'", "labels = '{'"),
    ],
)
def test_no_session_comes_back_as_somebody_else(tmp_path: Path, change: str) -> None:
    path = registry(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE sessions SET {change}")  # noqa: S608  # ours
        db.commit()
    with pytest.raises(SeraiError, match="the backup is damaged, or not for this VM"):
        restoring._prepare(path, "b")


def test_nothing_in_it_runs(tmp_path: Path) -> None:
    path = registry(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(TRIGGER)
    with pytest.raises(SeraiError, match="more than tables"):
        restoring._prepare(path, "b")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER later")
    assert restoring._prepare(path, "b") == 1


def registry(folder: Path) -> Path:
    path = folder / "registry.sqlite"
    with closing(Registry(path)) as made:
        record, _ = made.add("one", {}, time.time())
        made.change(lambda db: db.execute("UPDATE sessions SET state = 'stopped', goal = NULL"))
        assert record.uid >= 2000
    return path


def test_what_a_killed_restore_has_left_goes(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    (paths.state / "restoring").mkdir(parents=True)
    (paths.state / "restoring/registry.sqlite").write_bytes(b"x")
    homes.prepare(paths)
    assert not (paths.state / "restoring").exists()
