"""Many creates at once: how many begin together, and what is done once for all of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.paths import Paths
from serai.runtime.sessions.registry import FIRST_UID, Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State, Step
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.steps import steps as steps_module
from serai.runtime.sessions.steps.steps import AT_ONCE, REST, Steps
from serai.runtime.sessions.supervising.supervisor import Running
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


def sessions_with(steps: Counted, folder: Path) -> Sessions:
    paths = Paths(folder)
    paths.registry.parent.mkdir(parents=True)
    sessions = Sessions(
        paths, Registry(paths.registry), NOBODY, SessionSettings(), NOBODY, changed=lambda *_: None
    )
    sessions._goals.steps = cast("Any", steps)
    return sessions


def test_of_many_creates_few_are_under_way_and_the_first_is_ready_first(tmp_path: Path) -> None:
    steps = Counted()
    sessions = sessions_with(steps, tmp_path)
    names = [f"s{number}" for number in range(10 * AT_ONCE)]

    async def main() -> None:
        await asyncio.gather(*(sessions.create(name, {}) for name in names))

    asyncio.run(main())
    assert steps.most == AT_ONCE
    assert steps.order == names


def test_who_asks_again_for_one_that_is_made_takes_no_turn(tmp_path: Path) -> None:
    sessions = sessions_with(Counted(), tmp_path)
    noted: list[str] = []

    async def main() -> None:
        hangs = asyncio.Event()

        async def hang(record: Record) -> None:
            await hangs.wait()
            noted.append(record.name)

        again = [
            asyncio.ensure_future(sessions.create("slow", {}, "r1", noted=hang))
            for _ in range(3 * AT_ONCE)
        ]
        # Nor may anybody bring it up before it is noted.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reopened = asyncio.ensure_future(sessions.reopen("slow"))
        assert (await sessions.create("other", {})).state is State.READY
        assert not reopened.done()
        assert noted == []
        hangs.set()
        assert {each.state for each in await asyncio.gather(*again, reopened)} == {State.READY}

    asyncio.run(asyncio.wait_for(main(), 30))
    assert noted == ["slow"]


def steps_of(tmp_path: Path) -> Steps:
    folders = cast("Any", None)
    return Steps(Paths(tmp_path), SessionSettings(), NOBODY, NOBODY, folders, ended=lambda *_: None)


class Disk:
    """A disk of 1000 bytes, on which each session takes at once whatever it may have."""

    def __init__(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = steps
        self.used: dict[int, int] = {}
        self.limited: list[int] = []
        self.divided: list[set[int]] = []
        monkeypatch.setattr(quota, "share", self.share)
        monkeypatch.setattr(quota, "limit", self.limit)

    def limit(self, _: Path, uid: int, part: quota.Grant, own: str = "") -> bool:
        assert own == ("5K" if uid == FIRST_UID else "")
        self.limited.append(uid)
        if uid not in self.steps.pooled:
            self.used[uid] = max(self.used.get(uid, 0), part.bytes)
        return True

    def share(self, _: Path, uids: set[int], *_more: object, left: int = 1) -> quota.Grant:
        self.divided.append(set(uids))
        used = [self.used.get(uid, 0) for uid in uids]
        room = 1000 - sum(self.used.values()) + sum(used)
        part = quota.Grant(quota.fair(used, room, left), 10, 1000)
        for uid in uids:
            self.used[uid] = max(self.used.get(uid, 0), part.bytes)
        return part

    def starts(self, uid: int) -> None:
        self.steps._running[uid] = cast("Running", NOBODY)
        self.steps._limit_disk(uid)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(steps_of(tmp_path), monkeypatch)


def test_who_starts_has_its_part_at_once_and_all_are_divided_in_a_moment(disk: Disk) -> None:
    steps = disk.steps
    steps._quotas[FIRST_UID] = "5K"

    async def main() -> None:
        steps._part, steps._left = PART, 1
        disk.starts(FIRST_UID)
        assert disk.limited == [FIRST_UID]
        assert disk.divided == []
        disk.starts(FIRST_UID)  # again, for it has a quota of its own now
        assert disk.limited == [FIRST_UID] * 2
        while not disk.divided:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert disk.divided == [{FIRST_UID}]
    assert steps._left == 1


def test_who_takes_long_to_divide_the_disk_does_it_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(tmp_path)
    monkeypatch.setattr(quota, "share", lambda *_a, **_k: time.sleep(0.05))
    steps._moment_is_over()
    assert steps._pause >= 0.05 * REST
    monkeypatch.setattr(steps_module, "REST", 1e9)
    steps._moment_is_over()
    assert steps._pause == steps_module.LONGEST_REST


def test_however_many_start_in_a_moment_they_have_no_more_than_there_is(disk: Disk) -> None:
    uids = range(FIRST_UID + 1, FIRST_UID + 200)

    async def main() -> None:
        for uid in uids:
            disk.starts(uid)
            assert sum(disk.used.values()) <= 1000

    asyncio.run(main())
    assert set(disk.used) == set(uids)
    assert len(disk.divided) < len(uids) / 2  # of many each costs time


def test_who_waits_in_the_pool_has_no_part_that_others_lack(disk: Disk) -> None:
    steps = disk.steps

    async def main() -> None:
        disk.starts(FIRST_UID + 1)
        steps.pooled.update(range(FIRST_UID + 2, FIRST_UID + 9))
        for uid in sorted(steps.pooled):
            disk.starts(uid)
        assert len(disk.divided) == 1
        for uid in sorted(steps.pooled):  # they are taken
            steps.pooled.discard(uid)
            disk.starts(uid)
            assert sum(disk.used.values()) <= 1000

    asyncio.run(main())
    assert len(disk.used) == 8


def test_where_nothing_was_divided_yet_that_is_done_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided: list[set[int]] = []
    steps = steps_of(tmp_path)
    monkeypatch.setattr(quota, "share", lambda _, uids, *_a, **_k: divided.append(set(uids)))

    async def main() -> None:
        steps._running[FIRST_UID] = cast("Running", NOBODY)
        steps._limit_disk(FIRST_UID)

    asyncio.run(main())
    assert divided == [{FIRST_UID}]


def test_a_gate_that_hangs_keeps_no_session_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub:
        """In place of the supervisor and of the gate."""

        stopped = ""

        async def stop(self, name: str) -> None:
            self.stopped = name

        async def call(self, *_: object, **_more: object) -> None:
            await asyncio.Event().wait()

    stub: Any = Stub()
    monkeypatch.setattr(steps_module, "PATIENCE", 0.01)
    steps = Steps(Paths(tmp_path), SessionSettings(), stub, stub, NOBODY, ended=lambda *_: None)
    record = Record(FIRST_UID, "one", State.READY, State.STOPPED, {}, 0, 0, 0)
    asyncio.run(asyncio.wait_for(steps.do(Step.STOP, record), 30))
    assert stub.stopped == "one"
