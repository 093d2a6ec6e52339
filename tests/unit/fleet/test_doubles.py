"""When two connections with one VM's key are two, and when one of them is only half-open."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from serai.fleet.doubles import together


def answered(uses: list[tuple[str, float, float]], ahead: float = 0.0) -> dict[str, Any]:
    """A server's, whose clock may be ahead, about connections of a user, an age and idle times."""
    now = datetime(2026, 11, 30, tzinfo=timezone.utc) + timedelta(seconds=ahead)

    def said(age: float) -> str:
        return f"{now - timedelta(seconds=age):%Y-%m-%dT%H:%M:%S}.000123456Z"

    connections = [
        {"authorized_user": user, "start": said(age), "last_activity": said(idle), "ip": f"10.{at}"}
        for at, (user, age, idle) in enumerate(uses)
    ]
    return {"now": said(0), "connections": connections}


@pytest.mark.parametrize(
    ("old", "new", "twice"),
    [
        ((9000, 3), (20, 3), True),  # both say something
        ((9000, 3), (6, 6), False),  # it was cut off a moment ago, and is back
        ((9000, 25), (20, 3), False),  # the old one is half-open
        ((9000, 8999), (46, 1), True),  # it says nothing, and yet its server keeps it
        ((9000, 8999), (44, 1), False),
    ],
)
def test_who_uses_a_key_at_once(
    old: tuple[float, float], new: tuple[float, float], *, twice: bool
) -> None:
    here = [("a.2.vm.serai", *old), ("b.vm.serai", *old), ("a.client.serai", *old)]
    there = [("a.2.vm.serai", *new), ("a.client.serai", *new), ("", *new)]
    found = together([answered(here), answered(there, ahead=5000)])
    assert found == ({"a": ["10.0"]} if twice else {})


@pytest.mark.parametrize(
    ("old", "new", "twice"),
    [
        ((9000.0, 3.0), (100.0, 97.0, 96.0), True),  # it came for four seconds, and went
        ((9000.0, 3.0), (7.0, 4.0, 4.0), False),  # as one that the VM has ended at once
        ((9000.0, 3.0), (700.0, 690.0, 650.0), False),  # long ago
        ((90.0, 3.0), (9000.0, 61.0, 60.0), False),  # it was half-open, and the VM came back
    ],
)
def test_who_goes_soon_is_seen_all_the_same(
    old: tuple[float, float], new: tuple[float, float, float], *, twice: bool
) -> None:
    open_one = answered([("a.vm.serai", *old)])
    ended = answered([("a.vm.serai", *new[:2])])
    (connection,) = ended["connections"]
    stop = datetime(2026, 11, 30, tzinfo=timezone.utc) - timedelta(seconds=new[2])
    connection.update(stop=f"{stop:%Y-%m-%dT%H:%M:%S}Z", ip="10.9")
    assert together([ended, open_one]) == ({"a": ["10.0", "10.9"]} if twice else {})
