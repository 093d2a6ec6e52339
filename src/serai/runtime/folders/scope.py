"""Opens paths that come from outside, so that none leads out of the folder it is relative to.

Every such path goes through here. Nothing is checked and then used: a name is resolved once, by
openat2(2), to a descriptor without any right to the content (O_PATH), which opens no device and
waits at no fifo; its kind is read from that, and the very same inode is opened through it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import (
    EACCES,
    EAGAIN,
    EDQUOT,
    EEXIST,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EXDEV,
)

from serai.common import linux
from serai.common.errors import (
    EXISTS,
    FAILED,
    INVALID_PARAMS,
    NO_ROOM,
    NOT_FOUND,
    NOT_PERMITTED,
    SeraiError,
)

MAX_PATH, MAX_NAME = 4095, 255
SCRATCH = ".serai-put-"
"""What begins the names that a transfer uses until all is there; a watch tells nobody of them."""
RETRIES = 64
_PATH = os.O_PATH | os.O_CLOEXEC
KINDS = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symlink",
    stat.S_IFDIR: "a directory",
}


def check(path: str) -> list[str]:
    """The names that a relative path consists of; none for the folder itself ('' or '.').

    Raises SeraiError for an absolute path, '..', NUL and what is too long. Pure.
    """
    if "\0" in path:
        raise refused(path.replace("\0", "?"), "has a NUL in it")
    if len(os.fsencode(path)) > MAX_PATH:
        raise refused(path[:40] + "...", f"is longer than {MAX_PATH} bytes")
    if path.startswith("/"):
        raise refused(path, "is absolute", "give a path relative to the path role's directory")
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        if name == "..":
            raise refused(path, "has '..' in it")
        if len(os.fsencode(name)) > MAX_NAME:
            raise refused(path[:40] + "...", f"has a name of more than {MAX_NAME} bytes")
    return names


@contextmanager
def folder(base: int, path: str, *, cross: bool = False) -> Iterator[int]:
    """The folder ``path`` below the descriptor ``base``, as an O_PATH descriptor.

    It lies on the mount of ``base``, unless mounts may be crossed.
    """
    names = check(path)
    descriptor = _resolve(base, names, os.O_DIRECTORY, path, cross=cross)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file(base: int, path: str) -> int:
    """The regular file ``path`` below ``base``, opened for reading."""
    descriptor = _resolve(base, check(path), 0, path)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            raise refused(path, f"is {KINDS.get(kind, 'no file')}")
        return reopen(descriptor, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise failed(path, error) from None
    finally:
        os.close(descriptor)


@contextmanager
def parent(base: int, path: str, *, cross: bool = False) -> Iterator[tuple[int, str]]:
    """The folder that ``path`` is in, opened for reading, and the last name of ``path``."""
    names = check(path)
    if not names:
        raise refused(path or ".", "names no file")
    flags = os.O_DIRECTORY | os.O_RDONLY
    opened = _resolve(base, names[:-1], flags, path, os.O_RDONLY, cross=cross)
    try:
        yield opened, names[-1]
    finally:
        os.close(opened)


def replaceable(directory: int, name: str, path: str) -> None:
    """Refuse to put a file in the place of what is none. A rename follows nothing in any case."""
    try:
        kind = stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(path, error) from None
    if kind != stat.S_IFREG:
        raise refused(path, f"is {KINDS.get(kind, 'no file')}")


def absolute(path: str) -> int:
    """A folder of the VM by its absolute path, in which no symlink is followed; O_PATH.

    Mounts may be crossed: shares from the host are mounts.
    """
    if not path.startswith("/"):
        raise refused(path, "is not absolute", "give the directory's absolute path in the VM")
    names = check(path.lstrip("/"))
    root = os.open("/", _PATH | os.O_DIRECTORY)
    try:
        return _resolve(root, names, os.O_DIRECTORY, path, cross=True)
    finally:
        os.close(root)


def reopen(descriptor: int, flags: int) -> int:
    """Open the inode of an O_PATH descriptor, whatever its name means by now; proc(5), fd."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


def _resolve(
    base: int, names: list[str], flags: int, path: str, mode: int = _PATH, *, cross: bool = False
) -> int:
    resolve = (
        linux.RESOLVE_BENEATH
        | linux.RESOLVE_NO_SYMLINKS
        | linux.RESOLVE_NO_MAGICLINKS
        | (0 if cross else linux.RESOLVE_NO_XDEV)
    )
    where = os.fsencode("/".join(names) or ".")
    problem = OSError(EAGAIN, os.strerror(EAGAIN))
    for _ in range(RETRIES):
        try:
            return linux.openat2(base, where, flags | mode, resolve)
        except OSError as error:
            problem = error
            # Something was renamed or mounted while the kernel looked: openat2(2).
            if error.errno != EAGAIN:
                break
    raise failed(path, problem)


def failed(path: str, error: OSError) -> SeraiError:
    """What the kernel says about a path, in words."""
    what = {
        ELOOP: "leads through a symlink",
        EXDEV: "leads onto another mount",
        EAGAIN: "changes faster than it can be followed",
        ENOTDIR: "is no directory, or leads through what is none",
        ENAMETOOLONG: "is too long",
    }
    if error.errno in what:
        return refused(path, what[error.errno])
    codes = {
        ENOENT: NOT_FOUND,
        EACCES: NOT_PERMITTED,
        EPERM: NOT_PERMITTED,
        EEXIST: EXISTS,
        ENOTEMPTY: EXISTS,
        EDQUOT: NO_ROOM,
        ENOSPC: NO_ROOM,
    }
    text = f"{_shown(path)}: {os.strerror(error.errno or 0)}"
    return SeraiError(text, code=codes.get(error.errno or 0, FAILED))


def refused(path: str, why: str, hint: str = "") -> SeraiError:
    """The error for a path that is not taken, and why."""
    return SeraiError(f"{_shown(path)} {why}", hint, INVALID_PARAMS)


def _shown(path: str) -> str:
    return ascii(path or ".")[:200]
