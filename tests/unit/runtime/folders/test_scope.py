"""Paths from outside: what is opened, and what is refused with which words."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common import linux
from serai.common.errors import INVALID_PARAMS, NOT_FOUND, SeraiError
from serai.runtime.folders import scope
from tests.support.waiting import DEADLINE

TRIES = 2000


@pytest.fixture
def base(tmp_path: Path) -> Iterator[int]:
    """A role's folder with one of everything in it, and a secret beside it."""
    inside = tmp_path / "inside"
    (inside / "sub/deep").mkdir(parents=True)
    (inside / "sub/file").write_text("content")
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(inside / "socket"))
    (inside / "out").symlink_to(tmp_path)
    (inside / "link").symlink_to("sub/file")
    (inside / "to-sub").symlink_to("sub")
    (inside / "magic").symlink_to("/proc/self/cwd")
    (inside / "loop").symlink_to("loop")
    os.link(inside / "sub/file", inside / "hard")
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


BAD = {
    "/etc/passwd": "absolute",
    "//etc": "absolute",
    "..": "'..'",
    "../secret": "'..'",
    "sub/../../secret": "'..'",
    "sub/../sub/file": "'..'",
    "sub/..": "'..'",
    "sub/fi\0le": "NUL",
    "\0": "NUL",
    "x" * 256: "more than 255",
    "sub/" + "ü" * 128: "more than 255",
    "a/" * 2100: "longer than",
    "link": "symlink",
    "out": "symlink",
    "out/secret": "symlink",
    "to-sub/file": "symlink",
    "loop": "symlink",
    "magic/x": "symlink",
    "sub/file/x": "no directory",
}


@pytest.mark.parametrize("path", BAD, ids=lambda path: ascii(path)[:30])
def test_every_way_in_refuses_it_by_name(base: int, path: str) -> None:
    for way in (scope.file, lambda *p: scope.folder(*p).__enter__()):
        with pytest.raises(SeraiError, match=BAD[path]) as caught:
            way(base, path)
        assert caught.value.code == INVALID_PARAMS
        assert len(str(caught.value)) < 400


def test_it_is_openat2_that_keeps_a_path_inside(base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for bit in ("BENEATH", "NO_SYMLINKS", "NO_MAGICLINKS", "NO_XDEV"):
        monkeypatch.setattr(linux, f"RESOLVE_{bit}", 0)
    opened = scope.file(base, "out/secret")
    assert os.read(opened, 10) == b"secret"
    os.close(opened)


@pytest.mark.parametrize("path", ["out/new", "to-sub/new", "../new", "/new", "loop/new", "a\0b"])
def test_a_new_file_is_not_put_through_it(base: int, path: str) -> None:
    with pytest.raises(SeraiError), scope.parent(base, path):
        raise AssertionError("resolved")


@pytest.mark.parametrize("name", ["fifo", "socket", "sub"])
def test_what_is_no_file_is_refused_at_once(base: int, name: str) -> None:
    what = {"fifo": "a fifo", "socket": "a socket", "sub": "a directory"}[name]
    with pytest.raises(SeraiError, match=what):
        scope.file(base, name)
    with scope.parent(base, name) as (directory, last), pytest.raises(SeraiError, match=what):
        scope.replaceable(directory, last, name)


@pytest.mark.parametrize("name", ["link", "out", "loop"])
def test_a_symlink_is_not_replaced(base: int, name: str) -> None:
    with scope.parent(base, name) as (directory, last), pytest.raises(SeraiError, match="symlink"):
        scope.replaceable(directory, last, name)


@pytest.mark.parametrize("path", ["sub/file", "./sub//file", "sub/./file", "hard"])
def test_good_paths_are_opened(base: int, path: str) -> None:
    descriptor = scope.file(base, path)
    assert os.read(descriptor, 100) == b"content"
    os.close(descriptor)


def test_the_folder_itself_and_folders_in_it(base: int) -> None:
    for path, names in (("", 9), (".", 9), ("sub", 2), ("sub/deep/", 0)):
        with scope.folder(base, path) as found:
            inner = scope.reopen(found, os.O_RDONLY)
            assert len(os.listdir(inner)) == names, path
            os.close(inner)


def test_what_is_not_there_is_told_so(base: int) -> None:
    for path in ("nothing", "sub/nothing", "nothing/at/all"):
        with pytest.raises(SeraiError) as caught:
            scope.file(base, path)
        assert caught.value.code == NOT_FOUND


def test_odd_names_are_names(base: int, tmp_path: Path) -> None:
    for name in ("-rf", "a\nb", " ", "...", "~", "%s", "\udcff", "ünï", "'\"$(id)", "x" * 255):
        (tmp_path / "inside" / name).write_text(name.encode("utf-8", "replace").decode())
        os.close(scope.file(base, name))


def test_absolute_paths_follow_no_symlink(base: int, tmp_path: Path) -> None:
    os.close(scope.absolute(str(tmp_path / "inside/sub")))
    os.close(scope.absolute("/proc"))  # a mount
    for path in ("inside/to-sub", "inside/out/inside", "inside/sub/../sub"):
        with pytest.raises(SeraiError):
            scope.absolute(str(tmp_path / path))
    with pytest.raises(SeraiError, match="not absolute"):
        scope.absolute("inside")
    with pytest.raises(SeraiError, match="no directory"):
        scope.absolute(str(tmp_path / "inside/sub/file"))


def test_mounts_are_not_crossed() -> None:
    root = os.open("/", os.O_PATH)
    for path in ("proc/version", "proc", "dev/null"):
        with pytest.raises(SeraiError, match="another mount"):
            scope.file(root, path)
    os.close(root)


def test_devices_are_refused_without_being_opened() -> None:
    dev = os.open("/dev", os.O_PATH)
    for name in ("null", "zero", "full"):
        with pytest.raises(SeraiError, match="a device"):
            scope.file(dev, name)
    os.close(dev)


def test_a_folder_that_turns_into_a_symlink_and_back_never_leads_out(
    base: int, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    (inside / "swap").mkdir()
    (inside / "swap/secret").write_text("mine")
    (inside / "other").symlink_to(tmp_path)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for step in ("swap kept", "other swap", "swap other", "kept swap"):
                before, after = (inside / name for name in step.split())
                before.rename(after)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = {"mine": 0, "refused": 0}
    end, tries = time.monotonic() + DEADLINE, 0
    try:
        while (tries < TRIES or not all(seen.values())) and time.monotonic() < end:
            tries += 1
            try:
                descriptor = scope.file(base, "swap/secret")
            except SeraiError:
                seen["refused"] += 1
                continue
            assert os.read(descriptor, 10) == b"mine"
            os.close(descriptor)
            seen["mine"] += 1
    finally:
        done.set()
        thread.join()
    assert all(seen.values()), seen
