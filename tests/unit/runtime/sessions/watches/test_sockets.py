"""When sessions' sockets are looked at, and what is counted."""

from __future__ import annotations

import pytest

from serai.runtime.sessions.watches.sockets import MOST, enough, held, scarce

HEAD = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
LINE = "0000000000000000 0   {}       00000000 {}        0        0     2        0        18423\n"


@pytest.mark.parametrize(
    ("kernel", "available", "expected"),
    [(100, 3000, False), (501, 3000, True), (100, 1999, True), (500, 2000, False)],
)
def test_sessions_are_looked_at_when_memory_is_in_use(
    kernel: int, available: int, expected: bool
) -> None:
    lines = [
        "MemTotal:           4000 kB",
        f"MemAvailable:       {available} kB",
        f"SUnreclaim:         {kernel} kB",
        "HugePages_Total:       0",
    ]
    assert scarce("\n".join(lines)) is expected


def test_what_waits_in_all_sockets_counts() -> None:
    table = [HEAD, LINE.format(12, 4096), LINE.format(4294963197, 200_000)]
    assert held(table) == 204_096


def test_counting_ends_when_it_is_too_much() -> None:
    lines = iter([HEAD, *[LINE.format(1, MOST)] * 1000])
    assert held(lines) == 2 * MOST
    assert len(list(lines)) == 998


@pytest.mark.parametrize(("used", "expected"), [(6, False), (64, False), (65, True), (4000, True)])
def test_only_who_has_enough_sockets_is_looked_at_closely(used: int, expected: bool) -> None:
    sockstat = f"sockets: used {used}\nTCP: inuse 2 orphan 0 tw 0 alloc 2 mem 0\n"
    assert enough(sockstat, 256 << 10) is expected
