"""Numbers as people read them."""

from __future__ import annotations

import pytest

from serai.image import words


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (18432, "18.0 KiB"),
        (774524928, "738.6 MiB"),
        (10 << 30, "10.0 GiB"),
    ],
)
def test_sizes_for_people(count: int, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.016, "0.02 s"),
        (0.96, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (757.2, "12 min 37 s"),
        (3600, "1 h 00 min"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said
