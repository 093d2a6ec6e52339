"""Finished stages, kept by content: one directory a key, there whole or not at all.

Several users may share a result: each leaves a mark in it, by which it is kept for that user.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serai.common import files
from serai.image import console
from serai.image.errors import BuildError

_USERS = "users"  # in a result: an empty file for each who needed it, as old as the need


@contextmanager
def whole(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes ``target`` if the block succeeds.

    On any failure, Ctrl-C included, the temporary folder is removed and ``target`` is untouched.
    A ``target`` that came into being in the meantime wins: both have the same content by key. With
    ``replace`` it goes, and leaves the marks of its users.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if replace and (target / _USERS).is_dir():
            shutil.copytree(target / _USERS, temporary / _USERS, dirs_exist_ok=True)
        sync(temporary)
        with _out_of_the_way(target, asked=replace):
            if not target.exists():
                temporary.rename(target)
                files.fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _out_of_the_way(target: Path, *, asked: bool) -> Iterator[None]:
    """``target`` has another name in the block, if ``asked``, and is gone after it."""
    if not asked or not target.exists():
        yield
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(old)
        yield
    finally:
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-made in ``folder``; what has a maker is left alone."""
    for leftover in folder.glob(".*"):
        if leftover.is_dir():
            _remove(leftover, _lock(folder / leftover.name[1:].partition(".")[0]))


@contextmanager
def making(target: Path) -> Iterator[None]:
    """Be the only one who makes ``target``; whoever comes meanwhile waits, and may find it made."""
    with locked(_lock(target), wait=True):
        yield


def _lock(target: Path) -> Path:
    return target.parent / f".{target.name}.lock"


def use(folder: Path, user: str) -> None:
    """Mark the result in ``folder`` as what ``user`` needed last."""
    mark = folder / _USERS / user
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    os.utime(mark)


def uses(home: Path, user: str) -> list[Path]:
    """The marks of ``user`` in the results of ``home``, the newest last."""
    return sorted(home.glob(f"[!.]*/{_USERS}/{user}"), key=lambda path: path.stat().st_mtime)


def prune(home: Path, *, keep: int) -> None:
    """Remove all but the ``keep`` results in ``home`` that each user needed last.

    Where nobody leaves marks they are the newest.
    """
    results = [path for path in home.iterdir() if not path.name.startswith(".")]
    users = {mark.name for mark in home.glob(f"[!.]*/{_USERS}/*")}
    kept = {mark.parents[1] for user in users for mark in uses(home, user)[-keep:]}
    kept = kept or set(sorted(results, key=lambda path: path.stat().st_mtime)[-keep:])
    for old in set(results) - kept:
        _remove(old, _lock(old))


def _remove(folder: Path, lock: Path) -> None:
    """Remove ``folder`` and its lock, unless somebody has that."""
    with suppress(BuildError), locked(lock):
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink()


def sync(folder: Path) -> None:
    """Make every file and folder below ``folder`` durable (fsync(2))."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            files.fsync(path)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``path`` as a lock file, so that two builds never write the same stage at once.

    The kernel drops the lock with the process; a stale lock cannot exist. Where another process
    holds it, this waits for its end or raises BuildError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise BuildError(
                        f"another build is using {path.parent}", hint="wait for it, or end it"
                    ) from None
                console.say(f"waiting for another build, which is using {path.parent}")
                fcntl.flock(lock, fcntl.LOCK_EX)
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
