from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from serai.common import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_with_the_mode_that_was_asked_for(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "x"
    before = os.umask(0o077)
    try:
        files.write(path, b"one", durable=durable)
        files.write(path, b"two", 0o640, durable=durable)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert names(tmp_path) == ["x"]


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    path, size, seen = tmp_path / "x", 1 << 16, set()
    files.write(path, b"a" * size)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        for content in (b"b" * size, b"a" * size):
            files.write(path, content, durable=False)
    done.set()
    reader.join()
    assert seen <= {b"a" * size, b"b" * size}


def test_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    files.write(tmp_path / "x", b"content")
    assert steps == ["fsync .x.new", "rename", f"fsync {tmp_path.name}"]


def test_what_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.draft(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_draft_that_was_cut_off_is_in_nobodys_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / ".x.new").symlink_to(victim)
    files.write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_text() == "new"
    assert victim.read_text() == "kept"


def test_a_link_points_elsewhere_in_one_step(tmp_path: Path) -> None:
    for target in ("one", "two"):
        files.link(tmp_path / "x", target)
        assert (tmp_path / "x").readlink() == Path(target)
    assert names(tmp_path) == ["x"]


def test_a_socket_takes_the_place_of_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    files.listening(path, 5).close()
    with files.listening(path, 5, os.getgid()), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert path.stat().st_mode & 0o7777 == 0o660
        assert names(tmp_path) == ["x.sock"]
