from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime.sessions import retention
from serai.runtime.sessions.states import State
from serai.runtime.sessions.watches import disk
from serai.runtime.settings import Disk

RULES = Disk(warn_free=20, act_free=10)


def watched(
    measured: list[float], rules: Disk = RULES, *, broken: bool = False, files: float = 100
) -> tuple[list[str], list[float]]:
    """The levels that are told of, and at which measurements room was made."""
    told: list[str] = []
    made: list[float] = []
    shared: list[float] = []
    rest = iter(measured)
    last = 100.0

    class Measured:
        def free(self) -> float:
            nonlocal last
            last = next(rest, -1)
            if last < 0:
                raise asyncio.CancelledError
            return last

        def free_files(self) -> float:
            return files

        def users(self) -> str:
            return "blue has it all"

        def share(self) -> None:
            shared.append(last)

        async def make_room(
            self, keep_free: float, tell: Callable[[retention.Action], None]
        ) -> None:
            assert keep_free == rules.act_free
            made.append(last)
            if broken:
                raise SeraiError("no")
            tell(retention.Action("blue", State.STOPPED, "it is large"))

    def tell(event: str, params: dict[str, Any]) -> None:
        told.append(params["level"] if event == "disk.changed" else f"{event}: {params}")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(disk.run(lambda: rules, Measured(), tell, 0))
    assert len(shared) == len(measured) + 1
    return told, made


def test_every_change_is_told_once() -> None:
    told, _ = watched([50, 19, 18, 9, 8, 15, 30, 31], broken=True)
    assert told == ["low", "very low", "low", "fine"]


def test_a_disk_without_room_for_files_is_full_but_removing_bytes_is_no_help() -> None:
    assert watched([50, 40], files=8) == (["very low"], [])


def test_the_log_says_who_uses_it(caplog: pytest.LogCaptureFixture) -> None:
    watched([50, 19], files=30)
    assert caplog.messages == [
        "the sessions disk is low: 19.0 % of it and 30.0 % of its files are free; blue has it all"
    ]


def test_what_is_done_to_a_session_is_told() -> None:
    told = {"name": "blue", "goal": "stopped", "reason": "it is large"}
    assert watched([9])[0] == ["very low", f"disk.acted: {told}"]


def test_by_default_nothing_is_removed_however_full_the_disk_is() -> None:
    assert Disk().act_free == 0
    assert watched([50, 3, 0], Disk()) == (["very low"], [])


def test_room_is_made_as_long_as_there_is_too_little() -> None:
    assert watched([50, 19, 9, 8, 15])[1] == [9, 8]


def test_what_fails_is_tried_again() -> None:
    assert watched([9, 8], broken=True)[1] == [9, 8]
