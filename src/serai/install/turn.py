"""One at a time: each of what changes a VM's version would see half of another one's work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = file.readline(200).strip() or "another change of the version"
            raise FailedError(f"{other} is under way here; do this again when it is over") from None
        file.truncate(0)
        file.write(f"{what} (process {os.getpid()})\n")
        file.flush()
        yield
