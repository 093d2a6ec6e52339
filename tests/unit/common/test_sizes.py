from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.common import sizes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4K", 4096),
        ("64M", 64 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("50%", 500),
        ("100%", 1000),
        ("1%", 10),
        ("7", 7),
        ("infinity", None),
    ],
)
def test_a_limit_is_a_number_or_a_part_of_what_there_is(text: str, number: int | None) -> None:
    assert sizes.limit(text, 1000) == number
    assert sizes.checked(text) == text


def test_a_small_part_is_not_nothing() -> None:
    assert sizes.limit("1%", 10) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "064",
        "64MB",
        "64m",
        "1.5G",
        "0%",
        "101%",
        "Infinity",
        "4 K",
        "4K\n",
        "\uff14",
    ],
)
def test_what_is_not_an_amount(text: str) -> None:
    for read in (sizes.size, sizes.checked):
        with pytest.raises(ValueError, match="is not"):
            read(text)


def test_a_size_is_not_a_part() -> None:
    for text in ("50%", "infinity"):
        with pytest.raises(ValueError, match="is not bytes, or a text such as 64M"):
            sizes.size(text)


@given(st.integers(min_value=1, max_value=1 << 40))
def test_a_number_is_itself(number: int) -> None:
    assert sizes.size(str(number)) == number
    assert sizes.size(f"{number}K") == number * 1024
