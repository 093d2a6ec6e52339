"""Putting and getting files without a daemon around; as who runs the test."""

from __future__ import annotations

import json
import marshal
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common.errors import NO_ROOM, TOO_LARGE, SeraiError
from serai.runtime.folders import transfer


@pytest.fixture
def base(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def put(
    base: int, path: str, data: bytes, *, reserve: int = 0, confirm: bytes | None = None
) -> None:
    """Put ``data`` through a pipe, so that its end is all that tells its length."""
    source, writer = os.pipe()
    told, teller = os.pipe()
    if os.fork() == 0:
        os.write(writer, data)
        os._exit(0)
    os.close(writer)
    if confirm is not None:
        os.write(teller, confirm)
    os.close(teller)
    try:
        transfer.put(base, path, source, reserve, -1 if confirm is None else told)
    finally:
        os.wait()
        os.close(source)
        os.close(told)


def get(base: int, path: str, tmp_path: Path) -> bytes:
    with (tmp_path / ".got").open("w+b") as file:
        transfer.get(base, path, file.fileno())
        file.seek(0)
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_001])
def test_what_was_put_is_what_is_got(base: int, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    put(base, "file", data)
    assert get(base, "file", tmp_path) == data
    assert os.listdir(tmp_path) != [] and not list(tmp_path.glob(".serai-put-*"))


def test_a_file_is_replaced_whole_or_not_at_all(base: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SeraiError, match="cut off"):
        put(base, "file", b"half", confirm=b"")
    with pytest.raises(SeraiError, match="reserve of 100 %") as caught:
        put(base, "file", b"half", reserve=100)
    assert caught.value.code == NO_ROOM
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    put(base, "file", b"new", confirm=transfer.CONFIRM)
    assert (tmp_path / "file").read_text() == "new"


def test_without_nameless_files_it_is_the_same(
    base: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # EISDIR or EINVAL, as where it is unknown
    put(base, "file", b"new")
    with pytest.raises(SeraiError, match="cut off"):
        put(base, "file", b"half", confirm=b"")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_what_is_no_file_is_not_replaced(base: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder", "", ".", "folder/../x", "link/x", "fifo/x"):
        with pytest.raises(SeraiError):
            put(base, name, b"x")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link"]


def test_directories_that_are_missing_are_made(base: int, tmp_path: Path) -> None:
    for _ in range(2):
        put(base, "a/b/file", b"x")
    assert (tmp_path / "a/b/file").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) & 0o700 == 0o700
    (tmp_path / "a/out").symlink_to("/tmp")
    for path in ("a/out/new/x", "../new/x", "a/b/file/new/x", "/new/x"):
        with pytest.raises(SeraiError):
            put(base, path, b"x")
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "out"]
    assert not Path("/tmp/new").exists()


def test_a_listing_names_kinds_and_follows_nothing(base: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a\nb\udcff").touch()
    with (tmp_path / "folder/out").open("w+b") as file:
        transfer.listing(base, "", file.fileno())
        file.seek(0)
        entries = [json.loads(line) for line in file]
    assert {entry["name"]: (entry["type"], entry["size"]) for entry in entries} == {
        "file": ("file", 5),
        "folder": ("folder", None),
        "link": ("symlink", None),
        "fifo": ("other", None),
        "a\nb\udcff": ("file", 0),
    }


def test_more_memory_than_there_is_for_it_is_told() -> None:
    program = """
import sys
from serai.runtime.folders import transfer
transfer.run = lambda _: bytearray(transfer.MEMORY)
sys.exit(transfer.main(transfer.Plan("ls", "", "", "", 0, "").encode()))
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert marshal.loads(done.stderr)[2] == TOO_LARGE  # noqa: S302  # from the program above
