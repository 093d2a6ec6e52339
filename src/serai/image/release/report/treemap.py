"""Squarified treemaps: rectangles whose areas are as the sizes, and whose shapes are near squares.

The algorithm is that of M. Bruls, K. Huizing and J. J. van Wijk, "Squarified Treemaps" (2000): a
row along the shorter side takes one more rectangle as long as its worst proportion gets no worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rect:
    """A rectangle by its upper left corner; the unit is the caller's."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width by height."""
        return self.width * self.height


def squarify(sizes: Sequence[float], frame: Rect) -> list[Rect]:
    """Divide ``frame`` into one rectangle a size, in the order of ``sizes``.

    They begin at the upper left. Shapes come out best with the largest size first. Raises
    ValueError for a size or a frame that is not positive: it would have no place.
    """
    if any(size <= 0 for size in sizes) or frame.width <= 0 or frame.height <= 0:
        raise ValueError("a treemap's sizes and frame have to be positive")
    scale = frame.area / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    placed: list[Rect] = []
    free = frame
    while len(placed) < len(areas):
        row = _row(areas[len(placed) :], min(free.width, free.height))
        rects, free = _place(row, free)
        placed += rects
    return placed


def _row(areas: Sequence[float], side: float) -> list[float]:
    """The first of ``areas`` that go best side by side along ``side``."""
    row = [areas[0]]
    for area in areas[1:]:
        if _worst([*row, area], side) > _worst(row, side):
            break
        row.append(area)
    return row


def _worst(row: Sequence[float], side: float) -> float:
    """The largest proportion of length to breadth in ``row``, 1 being a square's."""
    thickness = sum(row) / side
    return max(
        max(thickness / length, length / thickness) for length in (area / thickness for area in row)
    )


def _place(row: Sequence[float], free: Rect) -> tuple[list[Rect], Rect]:
    """The rectangles of ``row`` along the shorter side of ``free``, and what is free then."""
    upright = free.width >= free.height  # the row is a column at the left
    side = free.height if upright else free.width
    thickness = sum(row) / side
    rects = []
    at = 0.0
    for area in row:
        length = area / thickness
        if upright:
            rects.append(Rect(free.x, free.y + at, thickness, length))
        else:
            rects.append(Rect(free.x + at, free.y, length, thickness))
        at += length
    if upright:
        return rects, Rect(free.x + thickness, free.y, free.width - thickness, free.height)
    return rects, Rect(free.x, free.y + thickness, free.width, free.height - thickness)
