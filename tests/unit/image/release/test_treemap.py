"""Squarified treemaps: proportional, without gaps or overlaps, in order, near squares."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.image.release.report.treemap import Rect, squarify

SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=60)
SIDES = st.integers(1, 1000)


def test_it_is_the_layout_of_the_paper() -> None:
    """Its example: 6, 6, 4, 3, 2, 2, 1 in a frame of 6 by 4."""
    rects = squarify([6, 6, 4, 3, 2, 2, 1], Rect(0, 0, 6, 4))
    found = [(r.x, r.y, r.width, r.height) for r in rects]
    assert found[:2] == [(0, 0, 3, 2), (0, 2, 3, 2)]
    assert found[2] == pytest.approx((3, 0, 12 / 7, 7 / 3))
    assert found[3] == pytest.approx((3 + 12 / 7, 0, 9 / 7, 7 / 3))
    assert found[4] == pytest.approx((3, 7 / 3, 6 / 5, 5 / 3))


@given(SIZES, SIDES, SIDES)
def test_areas_are_as_the_sizes_and_fill_the_frame(
    sizes: list[int], width: int, height: int
) -> None:
    rects = squarify(sizes, Rect(5, 7, width, height))
    scale = width * height / sum(sizes)
    assert [rect.area for rect in rects] == pytest.approx([size * scale for size in sizes])


@given(SIZES, SIDES, SIDES)
def test_nothing_overlaps_or_leaves_the_frame(sizes: list[int], width: int, height: int) -> None:
    rects = squarify(sizes, Rect(5, 7, width, height))
    slack = 1e-6 * max(width, height)
    for rect in rects:
        assert rect.x >= 5 - slack
        assert rect.y >= 7 - slack
        assert rect.x + rect.width <= 5 + width + slack
        assert rect.y + rect.height <= 7 + height + slack
    for one, other in combinations(rects, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert min(across, down) <= slack


def test_the_largest_is_at_the_upper_left_and_order_is_kept() -> None:
    rects = squarify([50, 30, 10, 5, 5], Rect(0, 0, 200, 100))
    assert (rects[0].x, rects[0].y) == (0, 0)
    assert [rect.area for rect in rects] == pytest.approx([10000, 6000, 2000, 1000, 1000])


def test_shapes_are_nearer_to_squares_than_slices_are() -> None:
    sizes = [2.0**-i for i in range(12)]
    rects = squarify(sizes, Rect(0, 0, 160, 100))
    worst = max(max(rect.width / rect.height, rect.height / rect.width) for rect in rects)
    assert worst < 3
    assert math.isclose(sum(rect.area for rect in rects), 16000)


def test_nothing_is_no_rectangle_and_no_size_is_an_error() -> None:
    assert squarify([], Rect(0, 0, 1, 1)) == []
    for sizes, frame in (
        ([1, 0], Rect(0, 0, 1, 1)),
        ([-1], Rect(0, 0, 1, 1)),
        ([1], Rect(0, 0, 0, 1)),
    ):
        with pytest.raises(ValueError, match="positive"):
            squarify(sizes, frame)
