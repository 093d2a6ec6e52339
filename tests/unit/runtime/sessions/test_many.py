"""Many creates at once: how many begin together, and what is done once for all of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.paths import Paths
from serai.runtime.sessions import quota
from serai.runtime.sessions.registry import FIRST_UID, Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import Step
from serai.runtime.sessions.steps import AT_ONCE, Steps
from serai.runtime.sessions.supervisor import Running
from serai.runtime.settings import SessionSettings

NOBODY: Any = None
PART = quota.Grant(1000, 10, 100_000)


class Counted:
    """In place of ``Steps``: how many sessions are under way at most, and who came first."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.order: list[str] = []

    def expect_user(self, uid: int, name: str) -> None: ...

    async def do(self, step: Step, record: Record) -> None:
        if step is Step.MAKE_HOME:
            self.order.append(record.name)
            self.now += 1
            self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        if step is Step.MOUNT_FOLDERS:
            self.now -= 1

    def running(self, uid: int) -> None: ...


def test_of_many_creates_few_are_under_way_and_the_first_is_ready_first(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.registry.parent.mkdir(parents=True)
    sessions = Sessions(
        paths, Registry(paths.registry), NOBODY, SessionSettings(), NOBODY, changed=lambda *_: None
    )
    steps = Counted()
    sessions._steps = sessions._moves.steps = cast("Any", steps)
    names = [f"s{number}" for number in range(10 * AT_ONCE)]

    async def main() -> None:
        await asyncio.gather(*(sessions.create(name, {}) for name in names))

    asyncio.run(main())
    assert steps.most == AT_ONCE
    assert steps.order == names


def steps_of(tmp_path: Path) -> Steps:
    folders = cast("Any", None)
    return Steps(Paths(tmp_path), SessionSettings(), NOBODY, NOBODY, folders, ended=lambda *_: None)


def test_a_session_has_its_part_at_once_and_all_are_divided_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided: list[set[int]] = []
    limited: list[int] = []
    steps = steps_of(tmp_path)

    def share(_: Path, uids: set[int], *_more: object) -> quota.Grant:
        divided.append(set(uids))
        return PART

    def limit(_: Path, uid: int, part: quota.Grant, own: str) -> bool:
        assert (part, own) == (PART, "5K" if uid == FIRST_UID else "")
        limited.append(uid)
        return True

    monkeypatch.setattr(quota, "share", share)
    monkeypatch.setattr(quota, "limit", limit)
    steps._part = PART
    steps._quotas[FIRST_UID] = "5K"
    uids = range(FIRST_UID, FIRST_UID + 20)

    async def main() -> None:
        for uid in uids:
            steps._running[uid] = cast("Running", NOBODY)
            steps._limit_disk(uid)
        assert limited == list(uids)
        assert divided == []
        while not divided:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert divided == [set(uids)]


def test_where_nothing_was_divided_yet_that_is_done_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided: list[set[int]] = []
    steps = steps_of(tmp_path)
    monkeypatch.setattr(quota, "share", lambda _, uids, *_more: divided.append(set(uids)))

    async def main() -> None:
        steps._running[FIRST_UID] = cast("Running", NOBODY)
        steps._limit_disk(FIRST_UID)

    asyncio.run(main())
    assert divided == [{FIRST_UID}]
