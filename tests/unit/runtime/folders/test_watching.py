"""What changes below a directory is told, and nobody can have more than so many watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common.errors import TOO_LARGE, SeraiError
from serai.runtime.folders.watching import Watch


@pytest.fixture
def base(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "outputs").mkdir()
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def told(watch: Watch) -> list[tuple[str, str]]:
    return [(each["event"], each["path"]) for each in watch.events()]


def test_what_happens_is_told_also_in_new_directories(base: int, tmp_path: Path) -> None:
    watch, here = Watch(base, "outputs"), tmp_path / "outputs"
    (here / "file").write_text("x")
    assert told(watch) == [("made", "file"), ("written", "file")]
    (here / "a/b").mkdir(parents=True)
    (here / "a/b/early").write_text("")
    assert {("made", "a"), ("made", "a/b"), ("made", "a/b/early")} <= set(told(watch))
    (here / "a/b/late").write_text("")
    assert ("made", "a/b/late") in told(watch)
    (here / "a").rename(here / "c")
    assert told(watch)[:2] == [("removed", "a"), ("made", "c")]
    (here / "c/b/late").unlink()
    assert ("removed", "c/b/late") in told(watch)
    watch.close()


def test_it_ends_with_its_directory(base: int, tmp_path: Path) -> None:
    watch = Watch(base, "outputs", pause=0.01)
    (tmp_path / "outputs").rmdir()
    assert told(watch) == []
    watch.close()


def test_no_symlink_is_followed(base: int, tmp_path: Path) -> None:
    (tmp_path / "outputs/etc").symlink_to("/etc")
    watch = Watch(base, "outputs", most=1)
    (tmp_path / "outputs/tmp").symlink_to("/tmp")
    assert told(watch) == [("made", "tmp")]
    watch.close()
    with pytest.raises(SeraiError, match=r"symlink|no directory"):
        Watch(base, "outputs/etc")


def test_directories_are_counted(base: int, tmp_path: Path) -> None:
    (tmp_path / "outputs/a").mkdir()
    with pytest.raises(SeraiError, match="more than 1 directories") as caught:
        Watch(base, "outputs", most=1)
    assert caught.value.code == TOO_LARGE
    watch = Watch(base, "outputs", most=2)
    (tmp_path / "outputs/b").mkdir()
    with pytest.raises(SeraiError, match="more than 2"):
        watch.events()
    watch.close()


def test_what_a_transfer_uses_until_all_is_there_is_not_told(base: int, tmp_path: Path) -> None:
    watch, here = Watch(base, "outputs"), tmp_path / "outputs"
    nameless = os.open(here, os.O_TMPFILE | os.O_WRONLY)
    os.close(nameless)
    (here / ".serai-put-12").write_text("x")
    (here / ".serai-put-12").rename(here / "file")
    (here / ".serai-put-34").mkdir()
    (here / ".serai-put-34/inner").write_text("x")
    (here / ".serai-put-34").rename(here / "tree")
    (here / "#12").write_text("x")
    found = told(watch)
    while ("written", "#12") not in found:
        found += told(watch)
    watch.close()
    assert found == [
        ("made", "file"),
        ("made", "tree"),
        ("made", "tree/inner"),
        ("made", "#12"),
        ("written", "#12"),
    ]
