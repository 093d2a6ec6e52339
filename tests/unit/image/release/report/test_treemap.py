"""Treemaps: which tiles there are, none of whose bytes is lost, and where they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.image.release.report import treemap
from serai.image.release.report.treemap import Node, Rect, squarify

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


# --- maps of an image


@dataclass(frozen=True)
class Entry:
    path: str
    type: str
    size: int = 0


def leaves(node: Node) -> list[Node]:
    return [leaf for part in node.parts for leaf in leaves(part)] if node.parts else [node]


def test_a_folder_is_as_large_as_the_files_below_it() -> None:
    entries = [
        Entry(".", "d"),
        Entry("etc", "d"),
        Entry("etc/hostname", "f", 5),
        Entry("initrd", "f", 100),
        Entry("srv", "d"),
        Entry("usr/lib/x.so", "f", 20),  # its folders' own entries may be missing
        Entry("usr/lib/y.so", "l", 9),  # a link's size is no file's
    ]
    assert treemap.folders(entries) == {
        ".": 125,
        "etc": 5,
        "srv": 0,
        "usr": 20,
        "usr/lib": 20,
    }
    assert treemap.folders([]) == {}


def test_small_packages_share_a_tile_and_empty_ones_have_none() -> None:
    node = treemap.of_packages({"b": 400, "a": 597, "x": 1, "y": 2, "empty": 0})
    assert [part.tile.name for part in node.parts] == ["a", "b", "2 smaller packages"]
    assert sum(part.tile.size for part in node.parts) == 1000
    assert [part.tile.tint for part in node.parts] == [3, 3, 0]


def test_large_folders_are_divided_and_their_parts_make_up_the_whole() -> None:
    sizes = {".": 1000, "usr": 900, "usr/lib": 700, "usr/share": 150, "usr/tiny": 1, "boot": 95}
    node = treemap.of_folders(sizes)
    names = [leaf.tile.name for leaf in leaves(node)]
    assert names == ["/usr/lib", "/usr/share", "/usr, the rest", "/boot", "/, the rest"]
    assert [leaf.tile.label for leaf in leaves(node)][:3] == ["lib", "share", "rest of usr"]
    assert sum(leaf.tile.size for leaf in leaves(node)) == 1000


@pytest.mark.parametrize(
    "node", [treemap.of_packages({}), treemap.of_folders({}), treemap.of_folders({".": 0})]
)
def test_an_empty_whole_has_no_tiles(node: Node) -> None:
    assert treemap.place(node, Rect(0, 0, 1, 1)) == []


def test_both_layouts_have_the_same_tiles_in_the_same_order() -> None:
    node = treemap.of_folders({".": 100, "a": 60, "a/b": 30, "a/c": 30, "d": 40})
    wide, narrow = Rect(0, 0, 200, 100), Rect(0, 0, 100, 120)
    placed = {frame: treemap.stretch(treemap.place(node, frame), frame) for frame in (wide, narrow)}
    assert [tile.tile.name for tile in placed[wide]] == ["/a/b", "/a/c", "/d"]
    assert [tile.tile for tile in placed[wide]] == [tile.tile for tile in placed[narrow]]
    for tiles in placed.values():
        areas = [tile.rect.area for tile in tiles]
        assert areas == pytest.approx([3000, 3000, 4000])  # of 100 by 100 per cent


def test_the_style_sheet_holds_places_and_no_names() -> None:
    node = treemap.of_packages({"</style>evil": 3, "b": 1})
    placed = treemap.place(node, Rect(0, 0, 100, 100))
    css = treemap.stylesheet("packages", placed, placed)
    assert "#packages0{left:0.000%;top:0.000%;width:75.000%;height:100.000%}" in css
    assert "evil" not in css
    assert css.count("#packages1{") == 2
