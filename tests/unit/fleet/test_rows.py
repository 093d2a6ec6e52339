"""What a VM tells of its sessions, whatever the servers do, and when it is killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from serai.fleet.rows import LONGEST, Rows, row


class Store:
    """Servers that keep what they are given, unless they are ``away``."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.away = False
        self.puts = 0

    async def put(self, name: str, text: bytes | None) -> bool:
        if self.away:
            return False
        self.puts += 1
        if text is None:
            self.rows.pop(name, None)
        else:
            self.rows[name] = text
        return True


def session(name: str, state: str = "ready", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "labels": {}, "used_at": 1, **more}


def told(rows: Rows) -> bool:
    return asyncio.run(rows.tell())


def test_rows_follow_the_sessions(tmp_path: Path) -> None:
    store = Store()
    rows = Rows(tmp_path / "rows.json", store.put)
    rows.all([session("one"), session("two")])
    assert told(rows)
    assert set(store.rows) == {"one", "two"}
    rows.changed(session("one", "stopped"))
    rows.removed("two")
    assert told(rows)
    assert json.loads(store.rows["one"])["state"] == "stopped"
    assert set(store.rows) == {"one"}
    puts = store.puts
    rows.all([session("one", "stopped", used_at=99)])
    assert told(rows)
    assert store.puts == puts  # that it was used is told to nobody
    rows.tell_again()
    assert told(rows)
    assert store.puts == puts + 1


def test_what_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    store = Store()
    rows = Rows(tmp_path / "rows.json", store.put)
    store.away = True
    rows.all([session("one")])
    assert not told(rows)
    store.away = False
    assert told(rows)
    assert set(store.rows) == {"one"}


def test_a_member_that_was_killed_takes_back_what_it_told(tmp_path: Path) -> None:
    """Also if it was killed between the put and its answer."""
    store = Store()
    rows = Rows(tmp_path / "rows.json", store.put)
    store.away = True
    rows.all([session("one")])
    assert not told(rows)
    store.rows["one"] = b"{}"  # it came, and its answer did not
    store.away = False
    fresh = Rows(tmp_path / "rows.json", store.put)
    assert told(fresh)  # sessiond has not been asked: nothing is taken back
    assert set(store.rows) == {"one"}
    fresh.all([])
    assert told(fresh)
    assert store.rows == {}
    assert json.loads((tmp_path / "rows.json").read_text()) == []


def test_a_damaged_file_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b"\0")
    store = Store()
    rows = Rows(tmp_path / "rows.json", store.put)
    rows.all([session("one")])
    assert told(rows)
    assert set(store.rows) == {"one"}


def test_a_row_has_a_limit() -> None:
    labels = {f"{at}": "ä" * 1000 for at in range(64)}
    assert len(row(session("one", labels=labels))) < LONGEST
