"""Finished stages, kept by content: one folder a key, there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.common import files
from serai.image.errors import BuildError


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes ``target`` if the block succeeds.

    On any failure, Ctrl-C included, the temporary folder is removed and ``target`` is untouched.
    A ``target`` that came into being in the meantime wins: both have the same content by key.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        sync(temporary)
        if not target.exists():
            temporary.rename(target)
            files.fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed build left half-made in ``folder``; call it under the lock."""
    for leftover in folder.glob(".*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)


def prune(folder: Path, *, keep: int) -> None:
    """Remove all but the ``keep`` newest results in ``folder``."""
    results = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for old in sorted(results, key=lambda path: path.stat().st_mtime)[:-keep]:
        shutil.rmtree(old)


def sync(folder: Path) -> None:
    """Make every file and folder below ``folder`` durable (fsync(2))."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            files.fsync(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock file, so that two builds never write the same stage at once.

    The kernel drops the lock with the process; a stale lock cannot exist. Raises BuildError if
    another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BuildError(
                    f"another build is using {path.parent}", hint="wait for it, or end it"
                ) from None
            # Its last holder may have renamed or removed the file after we opened it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                yield
                return


def write(path: Path, content: str) -> None:
    """Replace the text of ``path`` in one step that is durable; its mode stays what it was."""
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    with files.draft(path, str(os.getpid())) as name:
        name.write_text(content, encoding="utf-8")
        name.chmod(mode)
        files.fsync(name)
    files.fsync(path.parent)
