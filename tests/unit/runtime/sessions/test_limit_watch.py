"""Subscribers hear which limit a session has met, once a look."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serai.runtime.sessions import limit_watch
from serai.runtime.sessions.limit_watch import Met, Start
from serai.runtime.sessions.quota import Usage

MIB = 1 << 20


def told(*looks: dict[Start, Met]) -> list[tuple[str, str, int]]:
    """What is announced if these are seen, one after another."""
    heard = []
    rest = iter(looks)

    def running() -> Any:
        found = next(rest, None)
        if found is None:
            raise asyncio.CancelledError
        return found.items()

    def announce(event: str, params: dict[str, Any]) -> None:
        assert event == "session.limited"
        heard.append((params["name"], params["limit"], params["count"]))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(limit_watch.run(running, announce, 0))
    return heard


def test_what_a_session_met_since_the_last_look_is_one_event() -> None:
    looks: list[dict[Start, Met]] = [
        {("one", 7): met} for met in ({"tasks": 5}, {"tasks": 1005}, {"tasks": 1006, "memory": 1})
    ]
    assert told(looks[0], looks[0]) == [], "that was before"
    assert told(*looks) == [("one", "tasks", 1000), ("one", "tasks", 1), ("one", "memory", 1)]


def test_a_session_that_was_started_since_begins_at_zero() -> None:
    before: dict[Start, Met] = {("one", 7): {"memory": 3}}
    assert told(before, {("one", 8): {"memory": 2}}) == [("one", "memory", 2)]
    assert told({}, {("new", 9): {"memory": 1}}) == [("new", "memory", 1)]


def test_a_full_disk_is_told_once_until_there_is_room_again() -> None:
    full: dict[Start, Met] = {("one", 7): {"quota": 1}}
    room: dict[Start, Met] = {("one", 7): {"quota": 0}}
    assert told(room, full, full) == [("one", "quota", 1)]
    assert len(told(room, full, room, full)) == 2


@pytest.mark.parametrize(
    ("used", "full"),
    [
        (Usage(MIB - 4096, MIB, 1, 0), 1),
        (Usage(MIB // 2, MIB, 1, 0), 0),
        (Usage(5 * MIB, MIB, 1, 0), 1),
        (Usage(MIB, 0, 9, 9), 1),
        (Usage(MIB, 0, 9, 0), 0),
        (None, 0),
    ],
)
def test_a_session_is_full_when_it_can_write_no_more(
    tmp_path: Path, used: Usage | None, full: int
) -> None:
    (tmp_path / "pids.events").write_text("max 4\n")
    assert limit_watch.met(tmp_path, used) == {"memory": 0, "tasks": 4, "quota": full}
