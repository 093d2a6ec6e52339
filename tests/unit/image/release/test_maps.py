"""Which packages and folders a map shows, and that none of their bytes is lost."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from serai.image.release.report import maps
from serai.image.release.report.maps import Node
from serai.image.release.report.treemap import Rect


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
    assert maps.folders(entries) == {
        ".": 125,
        "etc": 5,
        "srv": 0,
        "usr": 20,
        "usr/lib": 20,
    }
    assert maps.folders([]) == {}


def test_small_packages_share_a_tile_and_empty_ones_have_none() -> None:
    node = maps.of_packages({"b": 400, "a": 597, "x": 1, "y": 2, "empty": 0})
    assert [part.tile.name for part in node.parts] == ["a", "b", "2 smaller packages"]
    assert sum(part.tile.size for part in node.parts) == 1000
    assert [part.tile.tint for part in node.parts] == [3, 3, 0]


def test_large_folders_are_divided_and_their_parts_make_up_the_whole() -> None:
    sizes = {".": 1000, "usr": 900, "usr/lib": 700, "usr/share": 150, "usr/tiny": 1, "boot": 95}
    node = maps.of_folders(sizes)
    names = [leaf.tile.name for leaf in leaves(node)]
    assert names == ["/usr/lib", "/usr/share", "/usr, the rest", "/boot", "/, the rest"]
    assert [leaf.tile.label for leaf in leaves(node)][:3] == ["lib", "share", "rest of usr"]
    assert sum(leaf.tile.size for leaf in leaves(node)) == 1000


@pytest.mark.parametrize(
    "node", [maps.of_packages({}), maps.of_folders({}), maps.of_folders({".": 0})]
)
def test_an_empty_whole_has_no_tiles(node: Node) -> None:
    assert maps.place(node, Rect(0, 0, 1, 1)) == []


def test_both_layouts_have_the_same_tiles_in_the_same_order() -> None:
    node = maps.of_folders({".": 100, "a": 60, "a/b": 30, "a/c": 30, "d": 40})
    wide, narrow = Rect(0, 0, 200, 100), Rect(0, 0, 100, 120)
    placed = {frame: maps.stretched(maps.place(node, frame), frame) for frame in (wide, narrow)}
    assert [tile.tile.name for tile in placed[wide]] == ["/a/b", "/a/c", "/d"]
    assert [tile.tile for tile in placed[wide]] == [tile.tile for tile in placed[narrow]]
    for tiles in placed.values():
        areas = [tile.rect.area for tile in tiles]
        assert areas == pytest.approx([3000, 3000, 4000])  # of 100 by 100 per cent


def test_the_style_sheet_holds_places_and_no_names() -> None:
    node = maps.of_packages({"</style>evil": 3, "b": 1})
    placed = maps.place(node, Rect(0, 0, 100, 100))
    css = maps.stylesheet("packages", placed, placed)
    assert "#packages0{left:0.000%;top:0.000%;width:75.000%;height:100.000%}" in css
    assert "evil" not in css
    assert css.count("#packages1{") == 2
