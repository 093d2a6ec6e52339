from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import EXISTS, SeraiError
from serai.runtime.sessions.registry import FIRST_UID, Record, Registry
from serai.runtime.sessions.together import Together


@pytest.fixture
def book(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry.sqlite")


def adding(book: Registry, name: str) -> partial[tuple[Record, bool]]:
    return partial(book.add, name, {}, 1.0)


async def outcomes(book: Registry, *names: str) -> list[object]:
    together = Together(book)
    asked = (together.do(adding(book, name)) for name in names)
    return await asyncio.gather(*asked, return_exceptions=True)


def test_what_many_ask_for_at_once_is_written_at_once(book: Registry) -> None:
    statements: list[str] = []
    book._db.set_trace_callback(statements.append)
    made = asyncio.run(outcomes(book, "a", "b", "c"))
    assert [each[0].uid for each in made if isinstance(each, tuple)] == [
        FIRST_UID + at for at in range(3)
    ]
    assert statements.count("COMMIT") == 1
    assert "PRAGMA synchronous = FULL" in statements


def test_one_that_fails_changes_nothing_and_keeps_no_other(book: Registry) -> None:
    first, second, third = asyncio.run(outcomes(book, "a", "a", "b"))
    assert isinstance(first, tuple)
    assert isinstance(third, tuple)
    assert isinstance(second, SeraiError)
    assert second.code == EXISTS
    assert [each.name for each in book.all()] == ["a", "b"]
    assert third[0].uid == FIRST_UID + 1


def test_what_one_wrote_before_it_failed_is_taken_back(book: Registry) -> None:
    def half() -> None:
        with book._transaction():
            book.add("half", {}, 1.0)
            raise SeraiError("told to fail")

    async def both() -> list[object]:
        together = Together(book)
        asked: list[Any] = [together.do(half), together.do(adding(book, "whole"))]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    failed, _ = asyncio.run(both())
    assert str(failed) == "told to fail"
    assert [(each.name, each.uid) for each in book.all()] == [("whole", FIRST_UID)]


def test_where_nothing_can_be_written_all_are_told(book: Registry) -> None:
    book._db.execute("PRAGMA query_only = ON")
    made = asyncio.run(outcomes(book, "a", "b"))
    assert all("registry cannot be written" in str(each) for each in made)


def test_an_error_of_ours_keeps_nobody_waiting(book: Registry) -> None:
    def wrong() -> None:
        raise KeyError("x")

    async def both() -> list[object]:
        together = Together(book)
        asked: list[Any] = [together.do(wrong), together.do(adding(book, "a"))]
        done = asyncio.gather(*asked, return_exceptions=True)
        return list(await asyncio.wait_for(done, 10))

    made = asyncio.run(both())
    assert all(isinstance(each, KeyError) for each in made)
    assert book.all() == []


def test_who_gave_up_waiting_keeps_no_other(book: Registry) -> None:
    async def given_up() -> object:
        together = Together(book)
        gone = asyncio.ensure_future(together.do(adding(book, "a")))
        stays = asyncio.ensure_future(together.do(adding(book, "b")))
        await asyncio.sleep(0)
        gone.cancel()
        return (await asyncio.wait_for(stays, 10))[0].name

    assert asyncio.run(given_up()) == "b"
    assert [each.name for each in book.all()] == ["a", "b"]


def test_on_a_full_disk_all_are_told_so_and_nothing_is_written(book: Registry) -> None:
    (pages,) = book._db.execute("PRAGMA page_count").fetchone()
    book._db.execute(f"PRAGMA max_page_count = {pages}")
    large = partial(book.add, "large", {"a": "b" * 100_000}, 1.0)

    async def main() -> list[object]:
        together = Together(book)
        changes = (together.do(each) for each in (adding(book, "a"), large, adding(book, "b")))
        return await asyncio.gather(*changes, return_exceptions=True)

    assert all("disk is full" in str(each) for each in asyncio.run(main()))
    assert book.all() == []
    assert isinstance(asyncio.run(outcomes(book, "a"))[0], tuple)
