"""What fills an image, as treemaps: which packages and folders become tiles, and where these lie.

The layout is that of M. Bruls, K. Huizing and J. J. van Wijk, "Squarified Treemaps" (2000): a row
along the shorter side takes one more rectangle as long as its worst proportion gets no worse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

# Shares of the whole: what is smaller gets no tile of its own, what is larger is looked into.
_PACKAGE_FLOOR, _FOLDER_FLOOR = 0.003, 0.007
_SPLIT = 0.06
_STEPS = (0.01, 0.04, 0.12)  # shares from which on a tile has the next tint
ROOT = "."


class FileLike(Protocol):
    """What is needed of an entry of a file manifest."""

    @property
    def path(self) -> str:
        """Relative to /, which is '.' itself."""

    @property
    def type(self) -> str:
        """A letter as in find(1): d is a folder, f a regular file."""

    @property
    def size(self) -> int:
        """In bytes."""


@dataclass(frozen=True)
class Tile:
    """A part of a map; ``size`` is in bytes, ``share`` its part of the whole, 0 to 1.

    ``label`` is what a small tile has room for: of a path the last name.
    """

    name: str
    size: int
    share: float
    label: str

    @property
    def tint(self) -> int:
        """0 to 3, deeper for what is larger."""
        return sum(self.share >= step for step in _STEPS)


@dataclass(frozen=True)
class Node:
    """A tile that may be divided into others, largest first."""

    tile: Tile
    parts: tuple[Node, ...] = ()


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


@dataclass(frozen=True)
class Placed:
    """A tile and where it lies, in the frame's unit."""

    tile: Tile
    rect: Rect


def folders(entries: Iterable[FileLike]) -> dict[str, int]:
    """The size of each folder with all that is below it, in bytes, '.' being the whole.

    It is the sum of the files' sizes: a file with two names counts twice, a hole as if it were
    written, and what the file system itself needs not at all.
    """
    sizes: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.type == "d":
            sizes[entry.path] += 0
        elif entry.type == "f":
            for folder in PurePosixPath(entry.path).parents:
                sizes[str(folder)] += entry.size
    return dict(sizes)


def of_packages(sizes: Mapping[str, int]) -> Node:
    """The map of packages by name; the smallest ones share a tile."""
    total = sum(sizes.values())
    shown = {name: size for name, size in sizes.items() if size and size >= total * _PACKAGE_FLOOR}
    rest = total - sum(shown.values())
    parts = [_leaf(name, size, total) for name, size in shown.items()]
    if rest:
        count = sum(1 for size in sizes.values() if size) - len(shown)
        parts.append(_leaf(f"{count} smaller packages", rest, total))
    return Node(Tile("all packages", total, 1.0, ""), _largest_first(parts))


def of_folders(sizes: Mapping[str, int]) -> Node:
    """The map of folders as ``folders`` gives them, large ones divided into what is in them."""
    inside: defaultdict[str, list[str]] = defaultdict(list)
    for path in sizes:
        if path != ROOT:
            inside[str(PurePosixPath(path).parent)].append(path)
    total = sizes.get(ROOT, 0)

    def node(path: str) -> Node:
        size = sizes[path]
        name = "/" if path == ROOT else f"/{path}"
        label = PurePosixPath(name).name or "/"
        tile = Tile(name, size, size / total, label)
        large = [part for part in inside[path] if sizes[part] > total * _FOLDER_FLOOR]
        if not large or (tile.share < _SPLIT and path != ROOT):
            return Node(tile)
        parts = [node(part) for part in large]
        rest = size - sum(part.tile.size for part in parts)
        if rest:
            parts.append(_leaf(f"{name}, the rest", rest, total, f"rest of {label}"))
        return Node(tile, _largest_first(parts))

    return node(ROOT) if total else Node(Tile("/", 0, 0.0, "/"))


def place(node: Node, frame: Rect) -> list[Placed]:
    """The map's tiles, each folder's side by side; those of a whole that is empty are none."""
    if not node.parts:
        return [Placed(node.tile, frame)] if node.tile.size else []
    rects = squarify([part.tile.size for part in node.parts], frame)
    pairs = zip(node.parts, rects, strict=True)
    return [placed for part, rect in pairs for placed in place(part, rect)]


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
        rects, free = _place_row(row, free)
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


def _place_row(row: Sequence[float], free: Rect) -> tuple[list[Rect], Rect]:
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


def stylesheet(name: str, wide: Sequence[Placed], narrow: Sequence[Placed]) -> str:
    """CSS that places the tiles with the ids ``name``0, ``name``1 …, on screens and on phones.

    Both lie in frames of 100 by 100. It holds numbers and ``name`` alone, nothing of an image's.
    """

    def rules(tiles: Sequence[Placed]) -> str:
        return "\n".join(f"#{name}{i}{{{_position(tile.rect)}}}" for i, tile in enumerate(tiles))

    return f"{rules(wide)}\n@media (max-width: 40rem) {{\n{rules(narrow)}\n}}\n"


def stretch(tiles: Sequence[Placed], frame: Rect) -> list[Placed]:
    """Tiles laid out in ``frame``, in per cent of its sides."""
    across, down = 100 / frame.width, 100 / frame.height
    return [
        Placed(
            tile.tile,
            Rect(
                (tile.rect.x - frame.x) * across,
                (tile.rect.y - frame.y) * down,
                tile.rect.width * across,
                tile.rect.height * down,
            ),
        )
        for tile in tiles
    ]


def _position(rect: Rect) -> str:
    sides = ("left", rect.x), ("top", rect.y), ("width", rect.width), ("height", rect.height)
    return ";".join(f"{side}:{value:.3f}%" for side, value in sides)


def _leaf(name: str, size: int, total: int, label: str = "") -> Node:
    return Node(Tile(name, size, size / total, label or name))


def _largest_first(parts: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(sorted(parts, key=lambda part: (-part.tile.size, part.tile.name)))
