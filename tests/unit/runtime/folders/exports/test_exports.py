"""Exports that somebody hostile has made: nothing of them is outside, and none is believed."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import NO_ROOM, SeraiError
from serai.runtime.folders import archives
from serai.runtime.folders.exports import form, own_part, reading, writing

SESSION = {"name": "one"}


class Export:
    """An export that is put together by hand."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.file, mode="w", format=tarfile.PAX_FORMAT)
        self.digests = {part: form.Digest() for part in ("session", "home", "jobs")}
        self.text(form.FIRST, {"format": 1, "session": SESSION}, "session")

    def text(self, name: str, content: Any, part: str = "") -> None:
        made, raw = form.text(name, content)
        self.tar.addfile(made, io.BytesIO(raw))
        if part:
            self.digests[part].add(made, sha256(raw).hexdigest(), len(raw))

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> None:
        made = form.entry(name, more.pop("mode", 0o644), 0)
        made.type, made.size, made.linkname = kind, len(data), more.pop("link", "")
        made.pax_headers = {**made.pax_headers, **more.pop("pax", {})}
        part = "jobs" if name.startswith("jobs/") else "home"
        content = sha256(data).hexdigest() if kind == tarfile.REGTYPE else ""
        self.tar.addfile(made, io.BytesIO(data))
        made.mode &= 0o777
        with suppress(SeraiError):  # it is to be wrong
            self.digests[part].add(made, content, len(data))

    def end(self) -> bytes:
        self.text(form.LAST, {name: each.told() for name, each in self.digests.items()})
        self.tar.close()
        return self.file.getvalue()


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def unpack(
    raw: bytes, folder: Path, keep_free: Callable[[int, int], None] = lambda *_: None
) -> None:
    folder.mkdir()
    source = os.memfd_create("export")
    os.write(source, raw)
    os.lseek(source, 0, os.SEEK_SET)
    try:
        with opened(folder) as stage:
            reading.unpack(stage, source, lambda: None, keep_free)
    finally:
        os.close(source)


def test_a_good_one(tmp_path: Path) -> None:
    made = Export()
    made.add("home/d", tarfile.DIRTYPE, mode=0o500)
    made.add("home/d/f", data=b"x" * 70000, mode=0o6755)
    made.add("home/d/l", tarfile.SYMTYPE, link="/etc/passwd")
    made.add("home/d/g", tarfile.LNKTYPE, link="home/d/f")
    made.add("jobs/0123456789ab/log", data=b"said")
    unpack(made.end(), tmp_path / "stage")
    found = tmp_path / "stage/home/d"
    assert stat.S_IMODE(found.stat().st_mode) == 0o500
    # No set-user-ID bit, though the disk would not heed it either.
    assert stat.S_IMODE((found / "f").stat().st_mode) == 0o755
    assert (found / "g").samefile(found / "f")
    assert (tmp_path / "stage/jobs/0123456789ab/log").read_bytes() == b"said"
    assert json.loads((tmp_path / "stage/serai.json").read_text())["session"] == SESSION


JOB = "jobs/0123456789ab"
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100"}
# By what is wrong, the entries: a name, its type, and the rest by their names.
HOSTILE: dict[str, list[tuple[str, bytes, dict[str, Any]]]] = {
    "above": [("home/../../evil", tarfile.REGTYPE, {})],
    "absolute": [("/etc/evil", tarfile.REGTYPE, {})],
    "another part": [("etc/evil", tarfile.REGTYPE, {})],
    "the home itself": [("home", tarfile.DIRTYPE, {})],
    "through a symlink": [
        ("home/l", tarfile.SYMTYPE, {"link": ".."}),
        ("home/l/evil", tarfile.REGTYPE, {}),
    ],
    "onto a symlink": [
        ("home/l", tarfile.SYMTYPE, {"link": "../../evil"}),
        ("home/l", tarfile.REGTYPE, {"data": b"x"}),
    ],
    "a link out": [("home/l", tarfile.LNKTYPE, {"link": "../../outside"})],
    "a link above": [("home/l", tarfile.LNKTYPE, {"link": "home/../../outside"})],
    "a link to jobs": [
        (f"{JOB}/log", tarfile.REGTYPE, {}),
        ("home/l", tarfile.LNKTYPE, {"link": f"{JOB}/log"}),
    ],
    "a link to a symlink": [
        ("home/s", tarfile.SYMTYPE, {"link": "../../outside"}),
        ("home/l", tarfile.LNKTYPE, {"link": "home/s"}),
    ],
    "a link by a symlink": [
        ("home/s", tarfile.SYMTYPE, {"link": "../.."}),
        ("home/l", tarfile.LNKTYPE, {"link": "home/s/outside"}),
    ],
    "a device": [("home/null", tarfile.CHRTYPE, {})],
    "a fifo": [("home/fifo", tarfile.FIFOTYPE, {})],
    "twice": [("home/f", tarfile.REGTYPE, {})] * 2,
    "a directory twice": [("home/d", tarfile.DIRTYPE, {})] * 2,
    "an attribute of the system's": [
        ("home/f", tarfile.REGTYPE, {"pax": {"SCHILY.xattr.security.capability": "x"}})
    ],
    "no job's file": [(f"{JOB}/evil", tarfile.REGTYPE, {})],
    "no job": [("jobs/../log", tarfile.REGTYPE, {})],
    "a directory of jobs": [(JOB, tarfile.DIRTYPE, {})],
    "a job that is a link": [(f"{JOB}/log", tarfile.SYMTYPE, {"link": "/etc/passwd"})],
    "no time": [("home/f", tarfile.REGTYPE, {"pax": {"mtime": "1e999"}})],
    "a NUL": [("home/f", tarfile.REGTYPE, {"pax": {"path": "home/a\0b"}})],
    "a NUL in a link": [("home/l", tarfile.SYMTYPE, {"pax": {"linkpath": "a\0b"}})],
    "first twice": [(form.FIRST, tarfile.REGTYPE, {"data": b"{}"})],
    "pieces that overlap": [
        (
            "home/f",
            tarfile.REGTYPE,
            {"pax": SPARSE, "data": b"2\n0\n8\n4\n8\n".ljust(512, b"\0") + b"x" * 16},
        )
    ],
    "pieces behind the end": [
        (
            "home/f",
            tarfile.REGTYPE,
            {"pax": SPARSE, "data": b"1\n1000\n8\n".ljust(512, b"\0") + b"x" * 8},
        )
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_one_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("the VM's")
    made = Export()
    for path, kind, more in HOSTILE[name]:
        made.add(path, kind, **more)
    with pytest.raises(SeraiError) as caught:
        unpack(made.end(), tmp_path / "stage")
    assert "digest" not in str(caught.value)  # it is refused for what it is
    assert {each.name for each in tmp_path.iterdir()} == {"outside", "stage"}
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_what_has_no_end_comes_to_an_end(tmp_path: Path) -> None:
    left = [1 << 20]

    def keep_free(_: int, more: int) -> None:
        left[0] -= more
        if left[0] < 0:
            raise SeraiError("no room", code=NO_ROOM)

    made = Export()
    for number in range(40):
        made.add(f"home/{number}", data=bytes(100000))
    with pytest.raises(SeraiError, match="no room"):
        unpack(made.end(), tmp_path / "stage", keep_free)


def test_what_comes_behind_the_end_is_a_blocks_rest_and_no_more(tmp_path: Path) -> None:
    raw = Export().end()
    unpack(raw + bytes(100_000), tmp_path / "one")
    with pytest.raises(SeraiError, match="behind its end"):
        unpack(raw + bytes(reading.MOST_BEHIND + (1 << 20)), tmp_path / "two")


def test_nothing_is_skipped_that_nobody_counts() -> None:
    made = form.entry("home/f", 0o600, 0)
    table = form.set_sparse(made, 10, [(0, 1)])
    made.size = 7 << 30
    source = io.BytesIO(_header(made) + table + b"x".ljust(512, b"\0") + bytes(8 << 20))
    assert [member.name for member, _ in archives.reading(source, whole=True)] == ["home/f"]
    assert source.tell() < 1 << 20


@pytest.mark.parametrize("cut", [0, 512, 3000, 20000])
def test_a_part_of_one_is_none(tmp_path: Path, cut: int) -> None:
    made = Export()
    made.add("home/f", data=b"x" * 30000)
    with pytest.raises(SeraiError):
        unpack(made.end()[:cut], tmp_path / "stage")


def test_each_byte_counts(tmp_path: Path) -> None:
    made = Export()
    made.add("home/f", data=b"content")
    made.add("home/l", tarfile.SYMTYPE, link="target")
    raw = made.end()
    for number, text in enumerate((b"content", b"target", b'"one"')):
        at = raw.index(text)
        changed = raw[: at + 1] + bytes([raw[at + 1] ^ 1]) + raw[at + 2 :]
        with pytest.raises(SeraiError):
            unpack(changed, tmp_path / str(number))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    home, jobs = tmp_path / "home", tmp_path / "jobs"
    (home / "deep/er").mkdir(parents=True)
    jobs.mkdir()
    (home / "deep/er/file").write_bytes(b"a" * 5000)
    os.link(home / "deep/er/file", home / "link")
    with (home / "holes").open("wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"in the middle")
    os.mkfifo(home / "fifo")
    (home / os.fsdecode(b"\xff\n")).write_text("odd")
    (home / ("n" * 200)).write_text("long")
    with (tmp_path / "export").open("wb") as out, opened(home) as one, opened(jobs) as two:
        writing.export(one, two, os.getuid(), {"format": 1, "session": SESSION}, out.fileno())
    raw = (tmp_path / "export").read_bytes()
    assert len(raw) < 1 << 20
    unpack(raw, tmp_path / "stage")
    made = tmp_path / "stage/home"
    names = {os.fsencode(each.relative_to(home)) for each in home.rglob("*")} - {b"fifo"}
    assert {os.fsencode(each.relative_to(made)) for each in made.rglob("*")} == names
    assert (made / "holes").read_bytes() == (home / "holes").read_bytes()
    assert (made / "holes").stat().st_blocks < 1000
    assert (made / "link").samefile(made / "deep/er/file")
    assert (made / "deep").stat().st_mtime_ns == (home / "deep").stat().st_mtime_ns
    # Any other tar can read it, too.
    with tarfile.open(tmp_path / "export") as other:
        assert other.getmember("home/holes").size == 10 << 20


ATTRIBUTES = (b"user.a=b", b"user.%25", b"user.%", b"user.\xff", "user.é".encode(), b"user.n\n")


def test_an_attribute_whose_name_has_a_nul_is_left_out(tmp_path: Path) -> None:
    made = Export()
    made.add("home/f", pax={form.XATTR + "user.a\0b": "x"})
    unpack(made.end(), tmp_path / "stage")
    assert os.listxattr(tmp_path / "stage/home/f") == []


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_no_attribute_of_a_sessions_spoils_its_export(name: bytes) -> None:
    made = form.entry("home/f", 0o600, 0)
    form.set_xattrs(made, [(os.fsdecode(name), b"\xff=\n\0")])
    (read, _) = next(archives.reading(io.BytesIO(_header(made)), whole=True))
    assert form.xattrs_of(read) == form.xattrs_of(made)
    assert os.fsencode(form.xattrs_of(read)[0][0]) == name


def test_a_time_that_some_file_systems_have_spoils_no_export() -> None:
    made = form.entry("home/f", 0o600, 2**70)
    (read, _) = next(archives.reading(io.BytesIO(_header(made)), whole=True))
    assert form.time_of(read) == form.time_of(made) > 2**60


def test_a_file_with_holes_may_have_more_than_8_gib_of_data() -> None:
    pieces = [(4096, 9 << 30), (15 << 30, 512)]
    made = form.entry("home/f", 0o600, 0)
    table = form.set_sparse(made, 20 << 30, pieces)
    source = io.BytesIO(_header(made) + table)
    (read, _) = next(archives.reading(source, whole=True))
    assert read.size == 20 << 30
    assert form.segments_of(read) == pieces


def test_what_follows_a_large_file_with_holes_is_read() -> None:
    made = form.entry("home/f", 0o600, 0)
    table = form.set_sparse(made, 4096, [(0, 5), (1024, 5)])
    # As one has it whose data do not fit into a header.
    made.pax_headers = {**made.pax_headers, "size": str(made.size)}
    raw = _header(made) + table + b"begin--end".ljust(512, b"\0")
    raw += _header(form.entry("home/g", 0o600, 0)) + bytes(1024)
    found = {}
    for member, content in archives.reading(io.BytesIO(raw), whole=True):
        assert content is not None
        found[member.name] = content.read(8192).rstrip(b"\0")
    assert found == {"home/f": b"begin" + bytes(1019) + b"--end", "home/g": b""}


def _header(made: tarfile.TarInfo) -> bytes:
    return made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_a_backup_of_the_log_ends_at_a_line(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "audit-0000000000000001.jsonl").write_bytes(b"one\ntwo\nhal")
    (audit / "head").write_text("0000000000000001 00")
    (audit / "spare").write_text("")
    (tmp_path / "registry").write_bytes(b"r" * 600000)
    with (
        (tmp_path / "registry").open("rb") as copy,
        (tmp_path / "out").open("wb") as out,
        opened(audit) as log,
    ):
        own_part.write(copy.fileno(), log, out.fileno())
    (tmp_path / "stage").mkdir()
    with (tmp_path / "out").open("rb") as file:
        assert own_part.read(file, tmp_path / "stage")["format"] == 1
    assert (tmp_path / "stage/registry.sqlite").read_bytes() == b"r" * 600000
    found = {each.name: each.read_bytes() for each in (tmp_path / "stage/audit").iterdir()}
    assert found == {
        "audit-0000000000000001.jsonl": b"one\ntwo\n",
        "head": b"0000000000000001 00",
    }
    raw = (tmp_path / "out").read_bytes()
    for number, changed in enumerate((raw[:-11000], raw.replace(b"two\n", b"tow\n"), b"")):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(SeraiError):
            own_part.read(io.BytesIO(changed), tmp_path / str(number))
