"""Files that others may read at any time: each is made under another name, and then renamed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(path: Path, suffix: str = "new") -> Iterator[Path]:
    """A name beside ``path`` for what takes its place if the block succeeds.

    The name is the same each time, so that nothing piles up: of several processes that write the
    same path at once each needs a ``suffix`` of its own.
    """
    name = path.with_name(f".{path.name}.{suffix}")
    name.unlink(missing_ok=True)
    try:
        yield name
        name.replace(path)
    finally:
        name.unlink(missing_ok=True)


def write(path: Path, content: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace a file. Not ``durable``: a power cut may leave it empty, as on a tmpfs anyway."""
    with draft(path) as name:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    if durable:
        fsync(path.parent)


def link(path: Path, target: str | Path) -> None:
    """Make ``path`` a symbolic link to ``target``."""
    with draft(path) as name:
        name.symlink_to(target)


def listening(path: Path, backlog: int, group: int = -1) -> socket.socket:
    """A Unix socket at ``path`` that its owner and its group may connect to, and no one else.

    ``group`` -1 is the one that the directory gives it.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        with draft(path) as name:
            listener.bind(str(name))
            if group != -1:  # the gate may not even call it
                os.chown(name, -1, group)
            name.chmod(0o660)
            listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def fsync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
