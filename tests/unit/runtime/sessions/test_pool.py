"""How many wait, when one is made, and who gets it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions import pool
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.pool import Pool, check_memory, wanted
from serai.runtime.sessions.registry import Registry
from serai.runtime.sessions.states import State
from serai.runtime.sessions.together import Together
from serai.runtime.settings import PoolSettings, SessionSettings

MIB = 1 << 20
TWO = SessionSettings(pool=PoolSettings(size=2))


@pytest.mark.parametrize(
    ("size", "memory", "held"),
    [(0, 4096, 0), (4, 4096, 4), (100, 4096, 34), (4, 512, 4), (8, 512, 4), (4, 100, 0)],
)
def test_all_of_them_take_a_twentieth_of_the_memory_at_most(
    size: int, memory: int, held: int
) -> None:
    assert wanted(size, memory * MIB) == held


def test_none_is_made_where_memory_is_short() -> None:
    check_memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 100 kB\n")
    with pytest.raises(SeraiError, match="of memory are available"):
        check_memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 99 kB\n")


class Place:
    """A pool whose sessions are rows and nothing else."""

    def __init__(self, folder: Path, settings: SessionSettings = TWO) -> None:
        self.book = Registry(folder / "registry.sqlite")
        self.failing = self.stuck = False
        self.uids: set[int] = set()
        paths = Paths(folder)
        paths.sessions.mkdir()
        self.pool = Pool(
            *(paths, self.book, settings, self.bring),
            together=Together(self.book),
            fault=lambda _: None,
            uids=self.uids,
        )

    async def bring(self, uid: int, goal: State) -> None:
        if self.failing and not self.stuck:
            self.book.arrive({uid: State.REMOVING}, 1.0)
        if self.failing:
            raise SeraiError("it does not start")
        self.book.arrive({uid: goal}, 1.0)

    async def take(self, request: tuple[str, str] | None = None) -> tuple[int | None, bool]:
        return await self.pool.take({"a": "b"}, request, {}, Own())


def played(play: Callable[[], object]) -> None:
    async def main() -> None:
        result = play()
        assert asyncio.iscoroutine(result)
        await result

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(look(), 20)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(pool, "LEAST_REST", 0.001)
    monkeypatch.setattr(pool, "CALM", 0.001)
    monkeypatch.setattr(pool, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(pool, "check_memory", lambda _: None)
    monkeypatch.setattr(pool, "check_disk", lambda *_: None)
    return Place(tmp_path)


def test_it_is_filled_but_not_while_a_create_is_under_way(place: Place) -> None:
    async def play() -> None:
        with place.pool.creating():
            running = asyncio.ensure_future(place.pool.run())
            with place.pool.creating():
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert place.book.all(pooled=True) == []
        await until(lambda: place.pool.shown()["ready"] == 2)
        assert place.book.all() == []
        waiting = {each.uid for each in place.book.all(pooled=True)}
        assert waiting == place.uids
        uid, pooled = await place.take()
        assert pooled
        assert waiting - place.uids == {uid}
        await until(lambda: place.pool.shown()["ready"] == 2)
        counts = place.pool.shown()
        assert (counts["taken"], counts["missed"]) == (1, 0)
        running.cancel()

    played(play)


def test_a_request_that_is_repeated_takes_none(place: Place) -> None:
    async def play() -> None:
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["ready"] == 2)
        running.cancel()
        uid, _ = await place.take(("r1", "x"))
        assert await place.take(("r1", "x")) == (uid, False)
        with pytest.raises(SeraiError, match="used for another request"):
            await place.take(("r1", "y"))
        assert place.pool.shown()["ready"] == 1
        assert await place.pool.take({}, None, {}, Own(sandbox="sockets")) == (None, False)
        assert (await place.take())[1]
        assert await place.take() == (None, False)
        assert place.pool.shown()["missed"] == 1

    played(play)


def test_other_settings_make_them_anew_and_a_smaller_pool_keeps_the_oldest(place: Place) -> None:
    async def play() -> None:
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["ready"] == 2)
        oldest = min(place.uids)
        one = replace(TWO, pool=PoolSettings(size=1))
        place.pool.use(one)
        await until(lambda: place.uids == {oldest})
        place.pool.use(replace(one, hostname="other"))
        assert await place.take() == (None, False)  # at once
        await until(lambda: place.pool.shown()["ready"] == 1)
        assert oldest not in place.uids
        running.cancel()

    played(play)


def test_one_that_is_made_while_the_settings_change_is_made_anew(place: Place) -> None:
    made = place.pool._bring
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(uid: int, goal: State) -> None:
        begun.set()
        await goes_on.wait()
        await made(uid, goal)

    async def play() -> None:
        place.pool._bring = slow
        running = asyncio.ensure_future(place.pool.run())
        await begun.wait()
        (old,) = place.uids
        place.pool.use(replace(TWO, hostname="other"))
        goes_on.set()
        await until(lambda: place.pool.shown()["ready"] == 2)
        assert old not in place.pool._ready
        running.cancel()

    played(play)


def test_a_new_one_is_ready_before_all_old_ones_are_gone(place: Place) -> None:
    async def play() -> None:
        ten = replace(TWO, pool=PoolSettings(size=10))
        place.pool.use(ten)
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["ready"] == 10)
        place.pool.use(replace(ten, hostname="other"))
        assert place.pool.shown()["removing"] == 10
        await until(lambda: place.pool.shown()["ready"] > 0)
        assert place.pool.shown()["removing"] > 0
        while place.pool.shown()["ready"] < 10:
            assert len(place.uids) <= 10
            await asyncio.sleep(0)
        assert place.pool.shown()["removing"] == 0
        running.cancel()

    played(play)


def test_where_none_can_be_made_old_ones_go_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short(_: str) -> None:
        raise SeraiError("it is short")

    async def play() -> None:
        ten = replace(TWO, pool=PoolSettings(size=10))
        place.pool.use(ten)
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["ready"] == 10)
        monkeypatch.setattr(pool, "check_memory", short)
        place.pool.use(replace(ten, hostname="other"))
        await until(lambda: place.pool.shown()["problem"] is not None)
        await until(lambda: place.pool.shown()["removing"] == 0)
        assert place.pool.shown()["problem"] == "it is short"
        assert len(caplog.records) == 1
        running.cancel()

    played(play)


def test_a_pool_that_memory_has_no_room_for_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "memory_of_vm", lambda: 2048 * MIB)
    place.pool.use(replace(TWO, pool=PoolSettings(size=100)))
    counts = place.pool.shown()
    assert (counts["size"], counts["wanted"]) == (100, 17)
    assert "the pool holds 17, not 100" in caplog.text


def test_a_failure_is_told_once_and_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        place.failing = True
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: len(place.book.all(pooled=True)) > 2)
        assert place.pool.shown()["problem"] == "it does not start"
        assert place.uids == set()
        assert len(caplog.records) == 1
        place.failing = False
        await until(lambda: place.pool.shown()["ready"] == 2)
        assert place.pool.shown()["problem"] is None
        running.cancel()

    played(play)


def test_one_that_cannot_be_made_nor_taken_away_is_taken_away_later(place: Place) -> None:
    async def play() -> None:
        place.failing = place.stuck = True
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: bool(place.pool.shown()["problem"]))
        (uid,) = (each.uid for each in place.book.all(pooled=True))
        assert place.uids == {uid}
        place.failing = False
        await until(lambda: place.pool.shown()["ready"] == 2)
        left = place.book.by_uid(uid)
        assert left is not None
        assert left.state is State.REMOVING
        assert uid not in place.uids
        running.cancel()

    played(play)


def test_no_failure_ends_the_filling(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def play() -> None:
        monkeypatch.setattr(pool, "check_memory", broken)
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["problem"] == "disk I/O error")
        monkeypatch.setattr(pool, "check_memory", lambda _: None)
        await until(lambda: place.pool.shown()["ready"] == 2)
        running.cancel()

    played(play)


def test_a_smaller_pool_that_is_full_has_no_problem_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FIRST_RETRY", 60.0)

    async def play() -> None:
        place.failing = True
        running = asyncio.ensure_future(place.pool.run())
        await until(lambda: place.pool.shown()["problem"] is not None)
        place.pool.use(replace(TWO, pool=PoolSettings(size=0)))
        await until(lambda: place.pool.shown()["problem"] is None)
        running.cancel()

    played(play)
