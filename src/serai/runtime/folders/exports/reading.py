"""Unpacks an export into a directory in which nobody looks yet. As whom, transfer says.

An export comes from somebody hostile as a rule. Each name is made once, by its name alone, and
nothing is replaced: so every entry takes a file or bytes of the quota, and a stream without an end
comes to an end. What is here counts only when ``check`` at the end has found all of it as it was.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import tarfile
from collections.abc import Callable
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from hashlib import sha256
from typing import IO, Any

from serai.common import linux, stdio
from serai.runtime.folders import archives, scope
from serai.runtime.folders.exports import form, writing

CHUNK = 256 << 10
MOST_JOBS = 1100  # what a session keeps, and some more
MOST_LOG = 4 << 20
MOST_BEHIND = 4 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_JOB = re.compile(r"[0-9a-f]{12}")


def unpack(
    stage: int, source: int, confirmed: Callable[[], None], keep_free: Callable[[int, int], None]
) -> None:
    """Make what ``source`` gives in the empty directory ``stage``. Raises SeraiError or OSError.

    ``confirmed`` raises SeraiError if the input is not whole, ``keep_free`` if the disk has no room
    for so many bytes. Afterwards ``serai.json`` is there, too, and all is on the disk.
    """
    with os.fdopen(os.dup(source), "rb", buffering=0) as file:
        made = _Stage(stage, keep_free)
        try:
            for member, content in archives.reading(_Patient(file), whole=True):
                made.take(member, content)
            made.check()
            _end(_Patient(file))
        finally:
            made.close()
    confirmed()
    opened = scope.reopen(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        linux.syncfs(opened)
    finally:
        os.close(opened)


def _end(file: _Patient) -> None:
    """Read what is behind an export: tar(1) fills up its last block. Raises SeraiError."""
    left = MOST_BEHIND
    while data := file.read(CHUNK):
        left -= len(data)
        if left < 0:  # a compressed stream may unpack zeros for ever
            raise form.wrong("something comes behind its end")


class _Patient:
    """Reads from whoever may send nothing for ever."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        writing.waiting()
        data = self._file.read(size)
        signal.alarm(0)
        return data


class _Stage:
    """What has been made of an export so far."""

    def __init__(self, stage: int, keep_free: Callable[[int, int], None]) -> None:
        self._stage = stage
        self._keep_free = keep_free
        self._digests = {"session": form.Digest()}
        self._parts: dict[str, int] = {}
        for part in (form.HOME, form.JOBS):
            os.mkdir(part, 0o700, dir_fd=stage)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._parts[part] = os.open(part, flags, dir_fd=stage)
            self._digests[part] = form.Digest()
        self._folders: list[tuple[str, int, int]] = []
        self._jobs: set[str] = set()
        self._first: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None
        self._parent = ("", -1)

    def close(self) -> None:
        """Let go of it."""
        for descriptor in (*self._parts.values(), self._parent[1]):
            if descriptor >= 0:
                os.close(descriptor)

    def take(self, member: tarfile.TarInfo, content: archives.EntryContent | None) -> None:
        """Make an entry. Raises SeraiError or OSError."""
        if self._last is not None:
            raise form.wrong("something comes behind its end")
        if (self._first is None) != (member.name == form.FIRST):
            raise form.wrong(f"{form.FIRST} is not what it begins with")
        member.mode &= archives.MODES
        member.uname = form.OTHERS if member.uname == form.OTHERS else form.OURS
        part, _, path = member.name.partition("/")
        if member.name in (form.FIRST, form.LAST):
            self._text(member, content)
        elif part == form.JOBS:
            self._job(member, content, path)
        elif part == form.HOME and scope.check(path):
            try:
                self._home(member, content, path)
            except OSError as error:
                if error.errno in (EDQUOT, ENOSPC):
                    raise  # which is not about this one file
                raise scope.failed(path, error) from None
        else:
            raise form.wrong(f"{ascii(member.name)[:200]} is no part of one")

    def check(self) -> None:
        """Whether all is there, as it was. Raises SeraiError."""
        if self._first is None or self._last is None:
            raise form.wrong("it is cut off")
        for part, digest in self._digests.items():
            if self._last.get(part) != digest.told():
                raise form.wrong(f"its part {part!r} is not what its digest says")
        for path, mode, time in reversed(self._folders):
            with scope.folder(self._parts[form.HOME], path) as made:
                os.utime(f"/proc/self/fd/{made}", ns=(time, time))
                os.chmod(f"/proc/self/fd/{made}", mode)  # noqa: PTH101  # a descriptor
        others = self._digests[form.HOME].others
        self._write(form.FIRST, form.text("", {**self._first, "others": others})[1])

    def _text(self, member: tarfile.TarInfo, content: archives.EntryContent | None) -> None:
        if content is None or member.issparse() or member.size > form.MOST_TEXT:
            raise form.wrong(f"its {member.name} is too large, or no file")
        raw = _read(content, member.size)
        if member.name == form.LAST:
            self._last = form.read_text(raw, form.LAST)
            return
        self._first = form.read_text(raw, form.FIRST)
        form.check_format(self._first)
        self._digests["session"].add(member, sha256(raw).hexdigest(), len(raw))

    def _job(
        self, member: tarfile.TarInfo, content: archives.EntryContent | None, path: str
    ) -> None:
        job, _, name = path.partition("/")
        most = MOST_LOG if name == "log" else form.MOST_TEXT
        known = _JOB.fullmatch(job) and name in form.JOB_FILES
        if not known or content is None or member.size > most:
            raise form.wrong(f"{ascii(member.name)[:200]} is no job's file")
        if job not in self._jobs:
            if len(self._jobs) >= MOST_JOBS:
                raise form.wrong(f"it has more than {MOST_JOBS} jobs")
            self._jobs.add(job)
            os.mkdir(job, 0o700, dir_fd=self._parts[form.JOBS])
        with scope.folder(self._parts[form.JOBS], job) as folder:
            self._file(folder, name, member, content, form.JOBS)

    def _home(
        self, member: tarfile.TarInfo, content: archives.EntryContent | None, path: str
    ) -> None:
        above, _, name = path.rpartition("/")
        directory = self._opened(above)
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=directory)
            self._folders.append((path, member.mode, form.time_of(member)))
            with scope.folder(directory, name) as made:
                _set_xattrs(f"/proc/self/fd/{made}", member)
        elif member.issym():
            if "\0" in member.linkname:
                raise form.wrong(f"{ascii(member.name)[:200]} leads to a name with a NUL in it")
            os.symlink(member.linkname, name, dir_fd=directory)
            time = form.time_of(member)
            os.utime(name, ns=(time, time), dir_fd=directory, follow_symlinks=False)
        elif member.islnk():
            self._link(member, directory, name)
        elif content is not None:
            self._file(directory, name, member, content, form.HOME)
            return
        self._digests[form.HOME].add(member, "", 0)

    def _link(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        part, _, target = member.linkname.partition("/")
        if part != form.HOME:
            raise form.wrong(f"{ascii(member.name)[:200]} is a link that leads out of it")
        with scope.parent(self._parts[form.HOME], target) as (above, last):
            # Nobody else changes anything here.
            if not stat.S_ISREG(os.stat(last, dir_fd=above, follow_symlinks=False).st_mode):
                raise form.wrong(f"{ascii(member.name)[:200]} is a link to what is no file")
            os.link(last, name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)

    def _opened(self, path: str) -> int:
        """A directory of the home, which stays open for the next ones in it."""
        if self._parent[1] < 0 or self._parent[0] != path:
            with scope.folder(self._parts[form.HOME], path) as found:
                opened = os.dup(found)
            if self._parent[1] >= 0:
                os.close(self._parent[1])
            self._parent = (path, opened)
        return self._parent[1]

    def _file(
        self,
        directory: int,
        name: str,
        member: tarfile.TarInfo,
        content: archives.EntryContent,
        part: str,
    ) -> None:
        segments = form.segments_of(member)
        total = sha256()
        made = os.open(name, _NEW, 0o600, dir_fd=directory)
        try:
            if member.issparse():
                os.ftruncate(made, member.size)
            for offset, size in segments:
                if member.issparse():
                    content.at(offset)
                    os.lseek(made, offset, os.SEEK_SET)
                left = size
                while left:
                    data = content.read(min(CHUNK, left))
                    if not data:
                        raise form.wrong(f"{ascii(member.name)[:200]} is cut off")
                    self._keep_free(directory, len(data))
                    total.update(data)
                    stdio.write_all(made, data)
                    left -= len(data)
            _set_xattrs(f"/proc/self/fd/{made}", member)
            time = form.time_of(member)
            os.utime(made, ns=(time, time))
            os.fchmod(made, member.mode)
        finally:
            os.close(made)
        self._digests[part].add(member, total.hexdigest(), member.size)

    def _write(self, name: str, raw: bytes) -> None:
        made = os.open(name, _NEW, 0o600, dir_fd=self._stage)
        try:
            stdio.write_all(made, raw)
        finally:
            os.close(made)


def _read(content: archives.EntryContent, size: int) -> bytes:
    parts = []
    while size and (data := content.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _set_xattrs(path: str, member: tarfile.TarInfo) -> None:
    for name, value in form.xattrs_of(member):
        if not name.startswith(form.USER):
            raise form.wrong(f"{ascii(member.name)[:200]} has the attribute {ascii(name)[:80]}")
        # Where the file system takes none, the file is worth more than they are.
        with suppress(OSError, ValueError):  # a NUL in the name, or no UTF-8
            os.setxattr(path, name, value.encode("utf-8", "surrogateescape"))
