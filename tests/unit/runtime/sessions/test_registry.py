from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serai.common.errors import CONFLICT, EXISTS, NOT_FOUND, SeraiError
from serai.runtime.sessions import names, schema
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.registry import FIRST_UID, REQUEST_LIFETIME, Record, Registry
from serai.runtime.sessions.states import State

ADDING = """
import sys
from pathlib import Path
from serai.runtime.sessions.registry import Registry
made = Registry(Path(sys.argv[1]))
number = 0
while True:
    name = f"{sys.argv[2]}-{number}"
    record, _ = made.add(name, {}, 1.0)
    print(record.uid, name, flush=True)
    if number % 2:
        made.forget(record.uid)
    number += 1
"""


def add(book: Registry, name: str, request: tuple[str, str] | None = None) -> Record:
    return book.add(name, {}, 1.0, request)[0]


@pytest.fixture
def book(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry.sqlite")


def test_uids_only_go_up_even_after_removal(book: Registry, tmp_path: Path) -> None:
    first = add(book, "a")
    book.forget(first.uid)
    second = add(book, "b")
    book.forget(second.uid)
    book.close()
    again = Registry(tmp_path / "registry.sqlite")
    assert [first.uid, second.uid, add(again, "c").uid] == [FIRST_UID, FIRST_UID + 1, FIRST_UID + 2]


def _add_many(path: Path, prefix: str) -> list[int]:
    book = Registry(path)
    return [add(book, f"{prefix}-{number}").uid for number in range(15)]


def test_creates_at_once_get_different_uids(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    Registry(path).close()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_add_many, [(path, prefix) for prefix in "abcd"])
    uids = [uid for each in found for uid in each]
    assert sorted(uids) == list(range(FIRST_UID, FIRST_UID + 60))


def test_kill_9_at_any_time_loses_nothing_and_repeats_no_uid(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    told: dict[int, str] = {}
    for turn in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", ADDING, str(path), f"t{turn}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(turn + 2):
            uid, name = process.stdout.readline().split()
            assert int(uid) not in told
            told[int(uid)] = name
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            uid, name = line.split()
            assert int(uid) not in told
            told[int(uid)] = name
        process.wait()
        process.stdout.close()
    book = Registry(path)
    kept = {record.uid: record.name for record in book.all()}
    for number, name in told.items():
        assert number in kept or int(name.split("-")[1]) % 2, "a session that was confirmed is lost"
    assert add(book, "new").uid > max(told)


def test_an_older_copy_gives_out_no_uid_that_is_on_the_disk(book: Registry, tmp_path: Path) -> None:
    add(book, "a")
    book.close()
    shutil.copy(tmp_path / "registry.sqlite", tmp_path / "older.sqlite")
    older = Registry(tmp_path / "older.sqlite")
    older.reserve_uids(2010)
    assert add(older, "b").uid == 2011
    older.reserve_uids(2005)
    assert add(older, "c").uid == 2012


def test_reserved_ranges_of_uids_are_jumped_over(book: Registry) -> None:
    book.reserve_uids(59998)
    assert [add(book, name).uid for name in ("a", "b")] == [59999, 200000]
    book.reserve_uids(524287)
    with pytest.raises(SeraiError, match="every UID"):
        add(book, "c")


def test_the_same_request_makes_one_session(book: Registry) -> None:
    first, new = book.add("a", {"k": "v"}, 1.0, ("id-1", "what"))
    again, newer = book.add("b", {"k": "v"}, 2.0, ("id-1", "what"))
    assert (new, newer) == (True, False)
    assert again == first
    assert len(book.all()) == 1


def test_a_request_id_is_for_one_request(book: Registry) -> None:
    made = add(book, "a", ("id-1", "what"))
    with pytest.raises(SeraiError) as caught:
        add(book, "b", ("id-1", "something else"))
    assert caught.value.code == CONFLICT
    book.forget(made.uid)
    with pytest.raises(SeraiError, match="is removed"):
        add(book, "a", ("id-1", "what"))
    book.prune_requests(1.0 + REQUEST_LIFETIME + 1)
    assert add(book, "a", ("id-1", "what")).uid > made.uid


def test_a_name_is_taken_until_its_data_is_on_the_way_out(book: Registry) -> None:
    first = add(book, "a")
    with pytest.raises(SeraiError) as caught:
        add(book, "a")
    assert caught.value.code == EXISTS
    book.arrive({first.uid: State.REMOVING}, 2.0)
    assert add(book, "a").uid != first.uid
    assert book.get("a").uid != first.uid


def test_a_made_up_name_was_never_used(book: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add(book, "a")
    book.forget(made.uid)
    seen: list[bool] = []

    def make_up(used: Callable[[str], bool]) -> str:
        seen.extend([used("a"), used("b")])
        return "b"

    monkeypatch.setattr(names, "make_up", make_up)
    assert book.add(None, {}, 1.0)[0].name == "b"
    assert seen == [True, False]


def test_goals_are_journalled_and_cleared_together(book: Registry) -> None:
    one, two = add(book, "a"), add(book, "b")
    assert one.goal is State.READY
    book.arrive({one.uid: State.ACTIVE, two.uid: State.READY}, 2.0)
    book.begin({one.uid: State.FROZEN, two.uid: State.ACTIVE})
    assert [record.goal for record in book.all()] == [State.FROZEN, State.ACTIVE]
    book.arrive({two.uid: State.ACTIVE, one.uid: State.FROZEN}, 3.0)
    assert [record.state for record in book.all()] == [State.FROZEN, State.ACTIVE]
    assert [record.goal for record in book.all()] == [None, None]
    active = book.active()
    assert active is not None
    assert active.uid == two.uid


def test_two_sessions_cannot_be_active(book: Registry) -> None:
    one, two = add(book, "a"), add(book, "b")
    book.arrive({one.uid: State.ACTIVE}, 2.0)
    with pytest.raises(SeraiError):
        book.arrive({two.uid: State.ACTIVE}, 2.0)
    assert book.get("b").state is State.CREATING


def test_a_newer_registry_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(SeraiError, match="newer"):
        Registry(path)
    assert path.read_bytes()[100:] == before[100:]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_registry_is_upgraded_in_place(tmp_path: Path, version: int) -> None:
    path = tmp_path / "registry.sqlite"
    book = Registry(path)
    add(book, "a")
    book.close()
    with sqlite3.connect(path) as database:
        for number, (column, _) in schema.ADDED.items():
            if number > version:
                database.execute(f"ALTER TABLE sessions DROP COLUMN {column}")
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    book = Registry(path)
    assert (book.get("a").policy, book.get("a").own, book.get("a").lives_from) == ({}, Own(), 0)
    book.set_own(book.get("a").uid, {"task": "42"}, Own({"ttl": "1h"}, {"A": "b"}), 7.0)
    book.close()
    found = Registry(path).get("a")
    assert (found.labels, found.own) == ({"task": "42"}, Own({"ttl": "1h"}, {"A": "b"}))
    assert found.ends_at == 7.0 + 3600


def test_a_time_to_live_begins_when_a_session_is_made_and_again_after_the_archive(
    book: Registry,
) -> None:
    uid = book.add("a", {}, 5.0, own=Own({"ttl": "1m"}))[0].uid
    for now, state in enumerate((State.READY, State.FROZEN, State.STOPPED), start=10):
        book.arrive({uid: state}, now)
        assert book.get("a").ends_at == 65.0
    book.arrive({uid: State.ARCHIVED}, 20.0)
    assert book.get("a").ends_at is None
    book.arrive({uid: State.READY}, 100.0)
    assert book.get("a").ends_at == 160.0


def test_those_with_a_time_are_found_without_reading_all(book: Registry) -> None:
    add(book, "plain")
    for name, limits in (("idles", {"idle_freeze": "1m"}), ("ends", {"ttl": "1m"})):
        book.add(name, {}, 1.0, own=Own(limits))
    book.add("large", {}, 1.0, own=Own({"memory": "1G"}))
    assert [each.name for each in book.timed()] == ["idles", "ends"]


def test_no_such_session(book: Registry) -> None:
    with pytest.raises(SeraiError) as caught:
        book.get("a")
    assert caught.value.code == NOT_FOUND


def test_the_registry_is_durable_by_default(book: Registry) -> None:
    add(book, "a")
    with book._transaction():
        assert book._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert book._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_read_only_disk_is_an_error_in_words(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = tmp_path / "folder.sqlite"
        folder.mkdir()
    else:
        folder = Path("/proc/registry.sqlite")
    with pytest.raises(SeraiError, match="registry"):
        Registry(folder)


def test_one_of_the_pool_is_found_by_nobody_and_given_out_once(book: Registry) -> None:
    waiting = book.add_pooled({"deny": ["*"]}, Own(), 1.0)
    assert book.all() == []
    assert book.all(pooled=True) == [waiting]
    with pytest.raises(SeraiError, match="waits in the pool; choose another name"):
        book.add(waiting.name, {}, 1.0)
    with pytest.raises(SeraiError, match="there is no session"):
        book.get(waiting.name)
    # It is not whole yet.
    other, _ = book.add(None, {}, 2.0, waiting=waiting.uid)
    assert other.uid != waiting.uid
    book.arrive({waiting.uid: State.READY}, 2.0)
    made, new = book.add(None, {"a": "b"}, 3.0, ("r1", "x"), own=Own(env={"A": "1"}), waiting=2000)
    assert new
    assert made == book.get(waiting.name)
    assert (made.uid, made.state, made.goal) == (waiting.uid, State.CREATING, State.READY)
    assert (made.created_at, made.used_at, made.lives_from) == (3.0, 3.0, 3.0)
    assert (made.labels, made.policy, made.own.env) == ({"a": "b"}, {}, {"A": "1"})
    assert book.add(None, {}, 4.0, ("r1", "x"), waiting=2000) == (made, False)
    assert book.add(None, {}, 4.0, waiting=2000)[0].uid not in (made.uid, other.uid)


def test_one_of_the_pool_that_is_removed_or_has_stopped_is_given_to_nobody(book: Registry) -> None:
    removed, stopped = (book.add_pooled({}, Own(), 1.0).uid for _ in range(2))
    book.arrive({removed: State.READY, stopped: State.STOPPED}, 2.0)
    book.begin({removed: State.REMOVING})
    for uid in (removed, stopped):
        assert book.add(None, {}, 3.0, waiting=uid)[0].uid not in (removed, stopped)
    assert {each.uid for each in book.all(pooled=True) if each.pooled} == {removed, stopped}
