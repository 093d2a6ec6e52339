"""Which sessions go when the disk is nearly full."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.runtime.sessions import retention
from serai.runtime.sessions.collector import Collector
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota


def record(uid: int, state: State, used_at: float = 0, **labels: str) -> Record:
    return Record(uid, f"s{uid}", state, None, labels, 0, 0, used_at)


def acts(records: list[Record], used: dict[int, int], needed: int) -> list[tuple[str, str]]:
    return [(each.name, each.goal.value) for each in retention.to_fit(records, used, needed)]


VICTIM = record(1, State.ARCHIVED)
ATTACKERS = [record(2, State.READY), record(3, State.ACTIVE)]


def test_who_fills_the_disk_is_stopped_and_no_archive_goes() -> None:
    assert acts([VICTIM, *ATTACKERS], {1: 40, 2: 46, 3: 47}, 5) == [("s3", "stopped")]


@pytest.mark.parametrize("state", [State.STOPPED, State.FROZEN])
def test_no_archive_goes_either_once_who_fills_the_disk_is_stopped(state: State) -> None:
    assert acts([VICTIM, record(2, state), record(3, state)], {1: 5, 2: 47, 3: 47}, 5) == []


def test_archives_that_fill_the_disk_go_oldest_first_and_no_more_than_needed() -> None:
    old, older, new = (record(uid, State.ARCHIVED, at) for uid, at in ((1, 5), (2, 3), (3, 9)))
    assert acts([old, older, new], {1: 20, 2: 20, 3: 20}, 30) == [
        ("s2", "removing"),
        ("s1", "removing"),
    ]


def test_what_frees_nothing_or_not_enough_or_is_kept_stays() -> None:
    empty, kept = record(1, State.ARCHIVED), record(2, State.ARCHIVED, keep="")
    assert acts([empty, kept], {1: 0, 2: 90}, 1) == []
    assert acts([VICTIM, kept], {1: 10, 2: 80}, 30) == []


class World:
    """As much of the sessions as a collector takes."""

    paths = SimpleNamespace(sessions=Path("/"))

    def __init__(self, records: list[Record]) -> None:
        by_name = {each.name: each for each in records}
        self.registry = SimpleNamespace(all=lambda: records, get=by_name.__getitem__)
        self.done: list[tuple[str, str]] = []
        self.noted: list[tuple[str, str]] = []
        self.notes = SimpleNamespace(
            by_itself=lambda operation, of, **_: self.noted.append((operation, of.name))
        )

    async def stop(self, name: str) -> None:
        self.done.append(("stop", name))

    async def archive(self, name: str) -> None:
        self.done.append(("archive", name))

    async def remove(self, name: str) -> None:
        self.done.append(("remove", name))

    async def deleted(self) -> None:
        pass


def made(records: list[Record], monkeypatch: pytest.MonkeyPatch, used: Any) -> tuple[World, Any]:
    world = World(records)
    told: list[retention.Action] = []
    monkeypatch.setattr(quota, "usage", lambda _, uid: used and quota.Usage(used[uid], 0, 1, 0))
    monkeypatch.setattr(quota, "free", lambda _: 1.0)
    collector = Collector(cast(Any, world))
    asyncio.run(collector.make_room(1.0 + 1e-9, told.append))
    return world, told


def test_room_is_not_made_where_it_is_not_known_who_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, told = made([VICTIM, *ATTACKERS], monkeypatch, None)
    assert (world.done, told) == ([], [])


def test_what_goes_is_told_and_logged_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        world, told = made([VICTIM], monkeypatch, {1: 5 << 40})
    assert world.done == world.noted == [("remove", "s1")]
    assert [each.name for each in told] == ["s1"]
    assert "session s1 becomes removing: archived, with 5242880 MiB" in caplog.text


def test_who_fills_the_disk_is_stopped_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = made([VICTIM, *ATTACKERS], monkeypatch, {1: 1, 2: 2, 3: 3})
    assert world.done == world.noted == [("stop", "s3")]
