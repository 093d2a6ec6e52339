"""One at a time: each of what changes a VM's version would see half of another one's work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serai.install.services import FailedError

LOCK = "run/serai-install.lock"
"""It stays there: who removed it would let two hold a lock, on two files."""


@contextmanager
def alone(root: Path, what: str) -> Iterator[None]:
    """Be the only one below ``root`` for as long as this lasts, or as this process lives.

    Raises FailedError, which says who is at it.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody else may open it: who can read a file can lock it.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(lock, 200).decode(errors="replace").partition("\n")[0]
            who = other or "another change of the version"
            raise FailedError(f"{who} is under way here; do this again when it is over") from None
        with suppress(OSError):  # no room: then others are told less
            os.truncate(lock, 0)
            os.write(lock, f"{what} (process {os.getpid()})\n".encode())
        yield
    finally:
        os.close(lock)
