from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serai.runtime.errors import SeraiError
from serai.runtime.sessions import watch
from serai.runtime.settings import Disk


def watched(measured: list[float], *, broken: bool = False) -> tuple[list[str], list[float]]:
    """The levels that are told of, and at which measurements room was made."""
    told: list[str] = []
    made: list[float] = []
    rest = iter(measured)
    last = 100.0

    class Measured:
        def free(self) -> float:
            nonlocal last
            last = next(rest, -1)
            if last < 0:
                raise asyncio.CancelledError
            return last

        async def collect(self, keep_days: float | None, keep_free: float | None) -> None:
            assert (keep_days, keep_free) == (None, 10)
            made.append(last)
            if broken:
                raise SeraiError("no")

    def tell(event: str, params: dict[str, Any]) -> None:
        assert event == "disk.changed"
        told.append(params["level"])

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.disk(Disk(warn_free=20, act_free=10), Measured(), tell, 0))
    return told, made


def test_every_change_is_told_once() -> None:
    assert watched([50, 19, 18, 9, 8, 15, 30, 31])[0] == ["low", "very low", "low", "fine"]


def test_room_is_made_as_long_as_there_is_too_little() -> None:
    assert watched([50, 19, 9, 8, 15])[1] == [9, 8]


def test_what_fails_is_tried_again() -> None:
    assert watched([9, 8], broken=True)[1] == [9, 8]
