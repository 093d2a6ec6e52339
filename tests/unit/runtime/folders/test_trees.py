"""Trees put and got as archives, without a daemon around; as who runs the test."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import EXISTS, INVALID_PARAMS, NO_ROOM, NOT_FOUND, SeraiError
from serai.runtime import local_files
from serai.runtime.folders import archives, trees


@pytest.fixture
def base(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "home").mkdir()
    descriptor = os.open(tmp_path / "home", os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def entry(name: str, **facts: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(made, key, value)
    return made


def packed(*entries: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in entries:
            if isinstance(each, tuple):
                archive.addfile(entry(each[0], size=len(each[1])), io.BytesIO(each[1]))
            else:
                archive.addfile(each, io.BytesIO(bytes(max(each.size, 0))))
    return file.getvalue()


def test_what_a_killed_put_left_goes_with_the_next_one(
    base: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, used = tmp_path / "home/.serai-put-1", tmp_path / "home/.serai-put-2"
    for each in (left, used):
        (each / "d").mkdir(parents=True)
        (each / "d/file").write_text("x")
    put(base, "a", packed(("f", b"1")))
    assert left.exists(), "it may be one that is just beginning"
    monkeypatch.setattr(trees, "FRESH", 0.0)
    with trees._held(base, used.name):
        put(base, "b", packed(("f", b"1")))
        assert sorted(os.listdir(tmp_path / "home")) == [used.name, "a", "b"]


def put(
    base: int,
    path: str,
    data: bytes,
    *,
    confirmed: Callable[[], None] = lambda: None,
    keep_free: Callable[[int, int], None] = lambda *_: None,
) -> None:
    source = os.memfd_create("archive")
    try:
        os.write(source, data)
        os.lseek(source, 0, os.SEEK_SET)
        trees.put(base, path, source, confirmed, keep_free)
    finally:
        os.close(source)


def got(base: int, path: str = "") -> io.BytesIO:
    target = os.memfd_create("archive")
    try:
        trees.get(base, path, target)
        return io.BytesIO(os.pread(target, 100 << 20, 0))
    finally:
        os.close(target)


def inside(folder: Path) -> dict[str, object]:
    return {
        str(each.relative_to(folder)): str(each.readlink())
        if each.is_symlink()
        else None
        if each.is_dir()
        else each.read_bytes()
        for each in folder.rglob("*")
    }


def test_a_tree_comes_back_as_it_was_put(base: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin/deep").mkdir(parents=True)
    (source / "bin/run").write_bytes(b"#!/bin/sh\n")
    (source / "bin/run").chmod(0o755)
    (source / "bin/read-only").write_bytes(os.urandom(200_000))
    (source / "bin/read-only").chmod(0o444)
    (source / "bin/deep/link").symlink_to("../run")
    (source / ("n" * 200)).write_bytes(b"a long name")
    os.mkfifo(source / "fifo")
    for number in range(300):
        (source / f"bin/deep/{number}").write_bytes(b"%d" % number)
    spool = io.BytesIO()
    with archives.writing(spool) as archive:
        local_files._pack(archive, source)
    put(base, "new/place", spool.getvalue())
    there, back = tmp_path / "home/new/place", tmp_path / "back"
    back.mkdir()
    local_files.unpack(got(base, "new/place"), back)
    (source / "fifo").unlink()
    assert inside(there) == inside(back) == inside(source)
    for folder in (there, back):
        assert stat.S_IMODE((folder / "bin/run").stat().st_mode) == 0o755
        assert stat.S_IMODE((folder / "bin/read-only").stat().st_mode) == 0o444
    assert os.listdir(tmp_path / "home") == ["new"]


HOSTILE: dict[str, tuple[list[Any], str]] = {
    "hard link": ([entry("l", type=tarfile.LNKTYPE, linkname="f")], "hard link; .*dereference"),
    "device": ([entry("d", type=tarfile.CHRTYPE, devmajor=1, devminor=1)], "a device"),
    "fifo": ([entry("p", type=tarfile.FIFOTYPE)], "a fifo"),
    "parent": ([("../x", b"1")], r"'\.\.' in it"),
    "absolute": ([("/x", b"1")], "absolute"),
    "through": (
        [entry("s", type=tarfile.SYMTYPE, linkname="/tmp"), ("s/x", b"1")],
        "symlink|no directory",
    ),
    "sparse": (
        [
            entry(
                "s",
                pax_headers={
                    "GNU.sparse.size": str(1 << 26),
                    "GNU.sparse.map": f"{(1 << 26) - 1},1",
                },
                size=1,
            )
        ],
        "a sparse file",
    ),
    "unknown": ([entry("v", type=b"V")], "of a kind"),
    "file as directory": ([("f", b"1"), ("f/x", b"1")], "no directory"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_changes_nothing(base: int, tmp_path: Path, what: str) -> None:
    entries, why = HOSTILE[what]
    data = packed(("good", b"good"), *entries)
    (tmp_path / "home/old").mkdir()
    for path in ("", "old", "new"):
        with pytest.raises(SeraiError, match=why):
            put(base, path, data)
    assert inside(tmp_path / "home") == {"old": None}
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(SeraiError, match=f"{why}|absolute"):
        local_files.unpack(io.BytesIO(data), stage)
    assert set(inside(stage)) <= {"good", "s", "f"}
    assert not Path("/tmp/x").exists()


def test_special_bits_and_owners_are_dropped(base: int, tmp_path: Path) -> None:
    put(
        base,
        "a",
        packed(
            entry("f", mode=0o7755, uid=0, gid=0, uname="root"),
            entry("d", type=tarfile.DIRTYPE, mode=0o7000),
        ),
    )
    assert stat.S_IMODE((tmp_path / "home/a/f").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "home/a/d").stat().st_mode) == 0o700, "its owner gets in"
    (tmp_path / "home/a/f").chmod(0o6755)
    with tarfile.open(fileobj=got(base, "a")) as archive:
        (member,) = [each for each in archive if each.isreg()]
    assert (member.mode, member.uid, member.uname) == (0o755, 0, "")


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024 + 512])
def test_an_archive_that_is_cut_off_changes_nothing(base: int, tmp_path: Path, cut: int) -> None:
    data = packed(("one", b"1" * 1000), ("two", b"2"))
    with pytest.raises(SeraiError, match="the archive cannot be used") as caught:
        put(base, "new", data[:cut])
    assert caught.value.code == INVALID_PARAMS
    assert inside(tmp_path / "home") == {}


def test_an_unconfirmed_archive_and_one_without_room_change_nothing(
    base: int, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise SeraiError("no", code=NO_ROOM)

    data = packed(("one", b"1"))
    for words in ({"confirmed": refuse}, {"keep_free": refuse}):
        with pytest.raises(SeraiError, match="no"):
            put(base, "", data, **words)
    assert inside(tmp_path / "home") == {}


def test_in_a_directory_that_is_there_what_is_not_named_stays(base: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(base, "a", packed(("sub/one", b"1"), ("sub/two", b"2")))
    put(base, "a", packed(("./sub/two", b"new"), ("./three", b"3")))
    put(base, "", packed(("b", b"4")))
    assert inside(home) == {
        **{"a": None, "a/sub": None, "a/sub/one": b"1", "a/sub/two": b"new", "a/three": b"3"},
        "b": b"4",
    }
    with pytest.raises(SeraiError, match="no directory"):
        put(base, "b", packed(("x", b"")))
    assert len(list(home.iterdir())) == 2


def test_headers_without_end_are_refused(base: int) -> None:
    long_name = packed(entry("x" * 200))[:1024]
    with pytest.raises(SeraiError, match="the archive cannot be used"):
        put(base, "a", long_name * 3000)


def test_a_tree_that_is_not_there_or_is_a_file(base: int, tmp_path: Path) -> None:
    with pytest.raises(SeraiError) as caught:
        got(base, "none")
    assert caught.value.code == NOT_FOUND
    (tmp_path / "home/file").write_text("")
    (tmp_path / "home/link").symlink_to("/etc")
    for path, why in (("file", "no directory"), ("link", "symlink|no directory")):
        with pytest.raises(SeraiError, match=why):
            got(base, path)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("a", "b", True),
        ("a", "./b/c", True),
        ("x/a", "../b", True),
        ("a", "../b", False),
        ("x/a", "../../b", False),
        ("a", "/etc", False),
        ("a", "d/../../etc", False),
        ("x/y/a", "../d/..", False),
    ],
)
def test_a_link_stays_in_its_tree(name: str, target: str, expected: bool) -> None:
    assert archives.inside(name, target) is expected


def test_a_link_that_leads_out_is_put_but_not_got(base: int, tmp_path: Path) -> None:
    put(base, "a", packed(entry("etc", type=tarfile.SYMTYPE, linkname="/etc")))
    assert (tmp_path / "home/a/etc").readlink() == Path("/etc")
    with pytest.raises(SeraiError, match="leads out of the tree; nothing was copied"):
        local_files.unpack(got(base, "a"), tmp_path)


def test_a_directory_that_is_there_is_no_place_for_a_tree(tmp_path: Path) -> None:
    files = local_files.Files("one", lambda: pytest.fail("asked"), lambda: pytest.fail("asked"))
    with pytest.raises(SeraiError, match="is there already") as caught:
        files.get_tree("outputs", tmp_path)
    assert caught.value.code == EXISTS
