"""Writes an export of a session, which does not run meanwhile. As whom, transfer says.

What is written is read once, and never kept: neither here nor on a disk. Directories are opened as
all paths are, by scope, though nobody changes them now.
"""

from __future__ import annotations

import os
import signal
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from errno import ENODATA, ENOTSUP, ENXIO
from hashlib import sha256
from typing import Any

from serai.common import stdio
from serai.common.errors import TIMEOUT, TOO_LARGE, SeraiError
from serai.runtime.folders import archives, scope
from serai.runtime.folders.exports import form

CHUNK = 256 << 10
PATIENCE = 60
"""Seconds that the other end may take for what it is given, or to give more."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_RECORD = 10240


def export(home: int, jobs: int, uid: int, first: dict[str, Any], target: int) -> None:
    """Write the export of what is in ``home``, and of the jobs. Raises SeraiError or OSError.

    ``first`` is what it says at the beginning. Sockets, fifos and devices are left out.
    """
    out = Out(target)
    parts = {"session": form.Digest(), form.HOME: form.Digest()}
    parts[form.JOBS] = form.Digest()
    made, raw = form.text(form.FIRST, first)
    out.entry(made, raw, parts["session"])
    _tree(out, home, uid, parts[form.HOME])
    if jobs >= 0:
        _jobs(out, jobs, parts[form.JOBS])
    out.entry(*form.text(form.LAST, {name: each.told() for name, each in parts.items()}))
    out.end()


class Out:
    """Where an archive is written to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._waiting = bytearray()
        self._written = 0
        signal.signal(signal.SIGALRM, _too_slow)

    def write(self, data: bytes) -> None:
        """Write, in large pieces."""
        self._waiting += data
        self._written += len(data)
        if len(self._waiting) >= CHUNK:
            self._flush()

    def header(self, made: tarfile.TarInfo) -> None:
        """Begin an entry."""
        self.write(made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def pad(self, size: int) -> None:
        """End the content of an entry, which had so many bytes."""
        self.write(bytes(-size % tarfile.BLOCKSIZE))

    def entry(self, made: tarfile.TarInfo, raw: bytes, digest: form.Digest | None = None) -> None:
        """A whole entry."""
        self.header(made)
        self.write(raw)
        self.pad(len(raw))
        if digest is not None:
            digest.add(made, sha256(raw).hexdigest(), len(raw))

    def end(self) -> None:
        """End the archive."""
        self.write(bytes(2 * tarfile.BLOCKSIZE))
        self.write(bytes(-self._written % _RECORD))
        self._flush()

    def _flush(self) -> None:
        signal.alarm(PATIENCE)
        stdio.write_all(self._target, bytes(self._waiting))
        signal.alarm(0)
        self._waiting.clear()


def _too_slow(_number: int, _frame: object) -> None:
    raise SeraiError(f"nobody took or sent a byte for {PATIENCE} seconds", code=TIMEOUT)


def waiting() -> None:
    """From now on whoever is waited for has PATIENCE seconds."""
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(PATIENCE)


def _tree(out: Out, home: int, uid: int, digest: form.Digest) -> None:
    links: dict[tuple[int, int], tuple[str, int]] = {}
    pending = [""]
    while pending:
        below = pending.pop()
        with scope.folder(home, below) as found:
            listed = scope.reopen(found, _FOLDER)
        try:
            for name in _names(listed):
                path = f"{below}/{name}" if below else name
                info = os.stat(name, dir_fd=listed, follow_symlinks=False)
                made = form.entry(
                    f"{form.HOME}/{path}",
                    info.st_mode & archives.MODES,
                    info.st_mtime_ns,
                    ours=info.st_uid == uid,
                )
                if stat.S_ISDIR(info.st_mode):
                    made.type = tarfile.DIRTYPE
                    form.set_xattrs(made, _xattrs(f"/proc/self/fd/{listed}/{name}", follow=False))
                    pending.append(path)
                elif stat.S_ISLNK(info.st_mode):
                    made.type = tarfile.SYMTYPE
                    made.linkname = os.readlink(name, dir_fd=listed)
                elif stat.S_ISREG(info.st_mode):
                    if not _linked(made, info, path, links):
                        _file(out, scope.file(listed, name), made, digest)
                        continue
                else:
                    continue
                out.header(made)
                digest.add(made, "", 0)
        finally:
            os.close(listed)


def _names(listed: int) -> Iterator[str]:
    with os.scandir(listed) as entries:
        for each in entries:
            yield each.name


def _linked(
    made: tarfile.TarInfo,
    info: os.stat_result,
    path: str,
    links: dict[tuple[int, int], tuple[str, int]],
) -> bool:
    """Make it a hard link if that file is in the export already."""
    if info.st_nlink == 1:
        return False
    key = (info.st_dev, info.st_ino)
    if key not in links:
        links[key] = (path, info.st_nlink - 1)
        return False
    first, left = links.pop(key)
    if left > 1:
        links[key] = (first, left - 1)
    made.type, made.linkname = tarfile.LNKTYPE, f"{form.HOME}/{first}"
    return True


def _file(out: Out, source: int, made: tarfile.TarInfo, digest: form.Digest) -> None:
    """A regular file, without its holes. One that shrinks is filled up with zeros."""
    try:
        form.set_xattrs(made, _xattrs(f"/proc/self/fd/{source}", follow=True))
        info = os.fstat(source)
        segments = [(0, info.st_size)] if info.st_size else []
        table = b""
        if info.st_blocks * 512 < info.st_size:
            segments = list(_segments(source, info.st_size, made.name))
            table = form.set_sparse(made, info.st_size, segments)
        else:
            made.size = info.st_size
        out.header(made)
        out.write(table)
        total = sha256()
        for offset, size in segments:
            for data in pieces(source, offset, size):
                total.update(data)
                out.write(data)
        out.pad(made.size)
        digest.add(made, total.hexdigest(), info.st_size)
    finally:
        os.close(source)


def pieces(source: int, offset: int, size: int) -> Iterator[bytes]:
    """So many bytes of a file from there on; zeros where it has become shorter."""
    at, end = offset, offset + size
    while at < end:
        data = os.pread(source, min(CHUNK, end - at), at) or bytes(min(CHUNK, end - at))
        at += len(data)
        yield data


def _segments(source: int, size: int, name: str) -> Iterator[tuple[int, int]]:
    """Where a file has data: lseek(2), SEEK_DATA."""
    at = 0
    for _ in range(form.MOST_SEGMENTS):
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # nothing but a hole is left
                return
            raise
        if begin >= size:
            return
        at = min(os.lseek(source, begin, os.SEEK_HOLE), size)
        yield begin, at - begin
        if at >= size:
            return
    raise SeraiError(
        f"{ascii(name)[:200]} has more than {form.MOST_SEGMENTS} holes",
        "copy it with: cp --sparse=never",
        TOO_LARGE,
    )


def _xattrs(path: str, *, follow: bool) -> list[tuple[str, bytes]]:
    found = []
    with suppress(OSError):  # ENOTSUP, or it is gone
        for name in os.listxattr(path, follow_symlinks=follow):
            if name.startswith(form.USER):
                try:
                    found.append((name, os.getxattr(path, name, follow_symlinks=follow)))
                except OSError as error:
                    if error.errno not in (ENODATA, ENOTSUP):
                        raise
    return found


def _jobs(out: Out, jobs: int, digest: form.Digest) -> None:
    for job in sorted(os.listdir(jobs)):  # a descriptor
        with suppress(FileNotFoundError), scope.folder(jobs, job) as folder:
            for name in form.JOB_FILES:
                try:
                    source = scope.file(folder, name)
                except SeraiError:
                    continue  # it has none
                info = os.fstat(source)
                made = form.entry(f"{form.JOBS}/{job}/{name}", 0o600, info.st_mtime_ns)
                _file(out, source, made, digest)
