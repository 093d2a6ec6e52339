"""Puts a tar archive into a path role's directory, or makes one of what is there.

As whom, transfer says.

An archive is unpacked beside its place first. So one that is cut off, refused or too large changes
nothing, and a directory that was not there appears whole. In one that was, each file is replaced
whole. Entries are opened as all paths are, by scope, so no symlink leads anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from errno import EDQUOT, EEXIST, ENOSPC, ENOTEMPTY
from typing import IO

from serai.common import linux, stdio
from serai.common.errors import NOT_FOUND, SeraiError
from serai.runtime.folders import archives, edit, scope

CHUNK = 1 << 20
FRESH = 60.0
"""Seconds in which a directory that nobody holds may be somebody's who is about to."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put(
    base: int,
    path: str,
    source: int,
    confirmed: Callable[[], None],
    keep_free: Callable[[int, int], None],
) -> None:
    """Make the archive that ``source`` gives the directory ``path`` below ``base``.

    ``confirmed`` raises SeraiError if the input is not whole, ``keep_free`` if a directory's disk
    has no room for so many bytes.
    """
    names = scope.check(path)
    above, stage = "/".join(names[:-1]), f"{scope.SCRATCH}{os.urandom(8).hex()}"
    if above:
        edit.mkdir(base, above)
    with scope.folder(base, above) as outer:
        _clear(outer)
        os.mkdir(stage, 0o755, dir_fd=outer)
        try:
            with contextlib.ExitStack() as held:
                with contextlib.suppress(OSError):  # without locks there, nothing is cleared either
                    held.enter_context(_held(outer, stage))
                with os.fdopen(os.dup(source), "rb", buffering=0) as file:
                    _unpack(outer, stage, file, keep_free)
                    while file.read(CHUNK):
                        pass  # tar(1) fills up its last block
                confirmed()
                with scope.folder(outer, stage) as made:
                    _sync(made)
                _into_place(outer, stage, names[-1] if names else ".", path)
        finally:
            with contextlib.suppress(FileNotFoundError, SeraiError):
                edit.remove(outer, stage, recursive=True)
        _sync(outer)


def _clear(outer: int) -> None:
    """Remove what is left of one that was killed; systemd does that when sessiond has fallen."""
    for name in _names(outer):
        if name.startswith(scope.SCRATCH):
            with contextlib.suppress(OSError, SeraiError), _held(outer, name) as begun:
                if time.time() - begun > FRESH:
                    edit.remove_tree(outer, name, name)


@contextlib.contextmanager
def _held(outer: int, name: str) -> Iterator[float]:
    """A directory that nobody else removes meanwhile, and when it was changed. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=outer)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_ctime
    finally:
        os.close(descriptor)


def get(base: int, path: str, target: int) -> None:
    """Write an archive of the directory ``path`` below ``base``. Sockets and devices are left out.

    What comes and goes meanwhile may be missing. A file that shrinks is filled up with zeros.
    """
    with (
        os.fdopen(os.dup(target), "wb", buffering=0) as file,
        archives.writing(file) as archive,
        scope.folder(base, path) as root,
    ):
        pending = [""]
        while pending:
            below = pending.pop()
            with contextlib.suppress(FileNotFoundError), scope.folder(root, below) as found:
                listed = scope.reopen(found, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    with os.scandir(listed) as entries:
                        for each in entries:
                            name = f"{below}/{each.name}" if below else each.name
                            if _pack(archive, root, listed, each.name, name):
                                pending.append(name)
                finally:
                    os.close(listed)


def _pack(archive: tarfile.TarFile, root: int, listed: int, last: str, name: str) -> bool:
    """Add an entry; true for a directory, in which there may be more."""
    try:
        info = os.stat(last, dir_fd=listed, follow_symlinks=False)
        facts = (info.st_mode, info.st_size, info.st_mtime)
        made = archives.header(name, facts)
        if made is None:
            return False
        if made.issym():
            made.linkname = os.readlink(last, dir_fd=listed)
        if not made.isreg():
            archive.addfile(made)
            return made.isdir()
        source = scope.file(root, name)
    except FileNotFoundError:
        return False
    except SeraiError as error:
        if error.code == NOT_FOUND:
            return False
        raise
    with os.fdopen(source, "rb", buffering=0) as file:
        made.size = os.fstat(source).st_size
        archive.addfile(made, _Filled(file))  # type: ignore[arg-type]  # all that it needs
    return False


class _Filled:
    """A file that has as many bytes as it is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        return data + bytes(size - len(data))


def _unpack(outer: int, stage: str, file: IO[bytes], keep_free: Callable[[int, int], None]) -> None:
    with scope.folder(outer, stage) as root:
        for member, content in archives.reading(file):
            if not scope.check(member.name):
                continue  # the tree's own directory
            try:
                _make(root, member, content, keep_free)
            except OSError as error:
                if error.errno in (EDQUOT, ENOSPC):
                    raise  # which is not about this one file
                raise scope.failed(member.name, error) from None


def _make(
    root: int,
    member: tarfile.TarInfo,
    content: archives.Readable | None,
    keep_free: Callable[[int, int], None],
) -> None:
    mode = member.mode & archives.MODES
    if member.isdir():
        edit.mkdir(root, member.name)
        with scope.folder(root, member.name) as made:
            # Its owner must get in, to fill it and to remove it.
            os.chmod(f"/proc/self/fd/{made}", mode | 0o700)  # noqa: PTH101  # a descriptor
        return
    above = "/".join(scope.check(member.name)[:-1])
    if above:
        try:
            with scope.folder(root, above):
                pass
        except SeraiError as error:
            if error.code != NOT_FOUND:
                raise
            edit.mkdir(root, above)
    with scope.parent(root, member.name) as (directory, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)  # of two with one name the later one counts
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
        elif content is not None:
            made = os.open(name, _NEW, 0o600, dir_fd=directory)
            try:
                while data := content.read(CHUNK):
                    keep_free(directory, len(data))
                    stdio.write_all(made, data)
                os.fchmod(made, mode)
                with contextlib.suppress(OverflowError, ValueError):
                    os.utime(made, (member.mtime, member.mtime))
            finally:
                os.close(made)


def _into_place(outer: int, stage: str, name: str, path: str) -> None:
    if name != ".":
        try:
            os.rename(stage, name, src_dir_fd=outer, dst_dir_fd=outer)
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST):
                raise scope.failed(path, error) from None
        else:
            return
    pending = [""]
    while pending:
        below = pending.pop()
        with (
            scope.folder(outer, f"{stage}/{below}") as ours,
            scope.folder(outer, f"{name}/{below}") as theirs,
        ):
            for each in _names(ours):
                try:
                    os.rename(each, each, src_dir_fd=ours, dst_dir_fd=theirs)
                except OSError as error:
                    if error.errno not in (ENOTEMPTY, EEXIST):
                        raise scope.failed(f"{path}/{below}/{each}", error) from None
                    pending.append(f"{below}/{each}")  # two directories


def _names(directory: int) -> list[str]:
    """What is in a directory that is open for its place alone."""
    listed = scope.reopen(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(listed)  # noqa: PTH208  # a descriptor
    finally:
        os.close(listed)


def _sync(directory: int) -> None:
    opened = scope.reopen(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        linux.syncfs(opened)
    finally:
        os.close(opened)
