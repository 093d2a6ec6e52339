"""What is done with files in a path role's directory, from outside: a program of its own.

Started by sessiond as root. It opens the folder, becomes the user to whom the files belong, without
any capability, and only then looks at the path that came from outside: a mistake in that could
reach no more than the session itself can. The file's bytes are standard input or output; what went
wrong is told on standard error. It imports little, since it is started for every file.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from errno import EDQUOT, EINVAL, EISDIR, ENOENT, ENOSPC, EOPNOTSUPP
from typing import NamedTuple

if __name__ == "__main__":  # started by its path, so that Python finds nothing but this package
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))  # noqa: PTH120

from serai.common import linux, stdio
from serai.common.errors import FAILED, NO_ROOM, NOT_PERMITTED, TOO_LARGE, SeraiError
from serai.runtime.folders import scope

CHUNK = 1 << 20
CONFIRM = b"."
MEMORY = 512 << 20
"""Bytes of address space: an archive's headers, or a full directory, may ask for any amount."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CLOEXEC


class Plan(NamedTuple):
    """What to do.

    ``attached`` is the absolute path of a directory of the VM; if it is empty, the path role's is
    ``folder`` below the home ``name`` in ``sessions``, whose user is ``uid``. ``reserve`` (percent)
    of the disk stays free. The input is whole only if CONFIRM comes from the descriptor
    ``confirm``, where that is 0 or more: a pipe also ends when its writer is killed. ``jobs`` is
    the directory of a session's jobs, for an export.
    """

    operation: str
    path: str
    sessions: str
    name: str
    uid: int
    folder: str
    attached: str = ""
    reserve: int = 0
    confirm: int = -1
    jobs: str = ""

    def encode(self) -> str:
        """As the program's argument."""
        return marshal.dumps(tuple(self)).hex()


def run(plan: Plan) -> None:
    """Carry it out. Raises SeraiError or OSError."""
    if plan.operation in ("export", "backup"):
        (_export if plan.operation == "export" else _backup)(plan)
        return
    base, uid, gid = _open(plan)
    _become(uid, gid)
    if plan.attached:
        _operate(plan, base)
    else:
        with scope.folder(base, plan.folder) as inner:
            _operate(plan, inner)


def put(base: int, path: str, source: int, reserve: int, confirm: int) -> None:
    """Copy ``source`` to the file ``path`` below ``base``: all of it, durably, or nothing.

    Directories in ``path`` that are missing are made, and stay.
    """
    _make_directories(base, path)
    with scope.parent(base, path) as (directory, name):
        scope.replaceable(directory, name, path)
        with _draft(directory) as (draft, rename):
            info = os.fstat(source)
            expected = info.st_size if stat.S_ISREG(info.st_mode) else 0
            _keep_free(directory, reserve, expected)
            while data := os.read(source, CHUNK):
                _keep_free(directory, reserve, len(data))
                stdio.write_all(draft, data)
            _confirmed(confirm)
            os.fsync(draft)
            rename(name)
        _sync(directory)


def _confirmed(confirm: int) -> None:
    if confirm >= 0 and os.read(confirm, 1) != CONFIRM:
        raise SeraiError("the input was cut off; nothing was put")


def _make_directories(base: int, path: str) -> None:
    names = scope.check(path)
    for depth in range(1, len(names)):
        with scope.parent(base, "/".join(names[:depth])) as (above, name):
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            except FileExistsError:
                continue
            _sync(above)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != EINVAL:  # a file system that knows no such thing
            raise


def get(base: int, path: str, target: int) -> None:
    """Copy the file ``path`` below ``base`` to ``target``."""
    source = scope.file(base, path)
    try:
        while data := os.read(source, CHUNK):
            stdio.write_all(target, data)
    finally:
        os.close(source)


def listing(base: int, path: str, target: int) -> None:
    """Write an entry of the folder ``path`` a line: name, type, size in bytes, time of change."""
    import json  # noqa: PLC0415  # costs 10 ms

    from serai.runtime.folders import edit  # noqa: PLC0415

    with scope.folder(base, path) as found:
        directory = scope.reopen(found, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    stdio.write_all(
                        target, json.dumps(edit.entry(entry.name, info)).encode() + b"\n"
                    )
    finally:
        os.close(directory)


def _export(plan: Plan) -> None:
    """Of a home that may be locked away, and that may have files which its user may not read."""
    import json  # noqa: PLC0415  # costs 10 ms

    from serai.runtime.folders.exports import writing  # noqa: PLC0415

    home = _home(plan)
    if os.fstat(home).st_gid != plan.uid:
        raise SeraiError(f"the home of session {plan.name} is another's", code=NOT_PERMITTED)
    jobs = -1
    with contextlib.suppress(FileNotFoundError):
        jobs = os.open(plan.jobs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(os.dup(0), "rb") as told:
        first = json.load(told)
    linux.read_anything()
    _become(plan.uid, plan.uid, linux.keep_reading)
    writing.export(home, jobs, plan.uid, first, 1)


def _backup(plan: Plan) -> None:
    """Of the registry's copy and the audit log, whose owners are others."""
    from serai.runtime.folders.exports import own_part  # noqa: PLC0415

    copy = os.open(plan.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    audit = os.open(plan.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    linux.read_anything()
    _become(plan.uid, plan.uid, linux.keep_reading)
    own_part.write(copy, audit, 1)


def _operate(plan: Plan, base: int) -> None:
    """Each imports what it needs, since one of them is all that this process does."""
    if plan.operation == "put":
        put(base, plan.path, 0, plan.reserve, plan.confirm)
    elif plan.operation == "get":
        get(base, plan.path, 1)
    elif plan.operation == "ls":
        listing(base, plan.path, 1)
    elif plan.operation == "file.batch":
        from serai.runtime.folders import edit  # noqa: PLC0415

        with scope.folder(base, plan.path) as inner:
            edit.run(inner, 0, 1)
    elif plan.operation == "file.watch":
        from serai.runtime.folders import watching  # noqa: PLC0415

        watching.run(base, plan.path, 1)
    elif plan.operation == "tree.get":
        from serai.runtime.folders import trees  # noqa: PLC0415

        trees.get(base, plan.path, 1)
    elif plan.operation == "import":
        from serai.runtime.folders.exports import reading  # noqa: PLC0415

        reading.unpack(base, 0, *_checks(plan))
    else:
        from serai.runtime.folders import trees  # noqa: PLC0415

        trees.put(base, plan.path, 0, *_checks(plan))


def _checks(plan: Plan) -> tuple[Callable[[], None], Callable[[int, int], None]]:
    return (
        lambda: _confirmed(plan.confirm),
        lambda directory, more: _keep_free(directory, plan.reserve, more),
    )


def _open(plan: Plan) -> tuple[int, int, int]:
    """The folder to begin at, and the user and group of the files in it."""
    if plan.attached:
        base = scope.absolute(plan.attached)
        info = os.fstat(base)
        return base, info.st_uid, info.st_gid
    home = _home(plan)
    if os.fstat(home).st_uid != plan.uid:
        raise SeraiError(f"the home of session {plan.name} is not open", code=NOT_PERMITTED)
    return home, plan.uid, plan.uid


def _home(plan: Plan) -> int:
    sessions = os.open(plan.sessions, _FOLDER)
    return os.open(plan.name, _FOLDER, dir_fd=sessions)


def _become(uid: int, gid: int, limit: Callable[[], None] = linux.empty_capabilities) -> None:
    """Give up everything but one user's rights; root without capabilities is a user, too."""
    os.umask(0o022)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    limit()
    linux.set_no_new_privileges()


@contextlib.contextmanager
def _draft(directory: int) -> Iterator[tuple[int, Callable[[str], None]]]:
    """A file without a name yet, and what gives it one; it is gone if it was given none."""
    temporary = f"{scope.SCRATCH}{os.urandom(8).hex()}"
    named = False
    try:
        draft = os.open(".", _NEW | os.O_TMPFILE, 0o644, dir_fd=directory)
    except OSError as error:
        if error.errno not in (EOPNOTSUPP, EISDIR, ENOENT, EINVAL):
            raise
        draft = os.open(temporary, _NEW | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
        named = True

    def rename(name: str) -> None:
        nonlocal named
        if not named:
            # A link can't replace a file, a rename can.
            os.link(f"/proc/self/fd/{draft}", temporary, dst_dir_fd=directory, follow_symlinks=True)
            named = True
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        named = False

    try:
        yield draft, rename
    finally:
        os.close(draft)
        if named:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)


def _keep_free(directory: int, reserve: int, more: int) -> None:
    """Refuse to write ``more`` bytes if that would touch the disk's reserve (percent)."""
    if reserve:
        disk = os.fstatvfs(directory)
        if disk.f_bavail * disk.f_frsize - more < disk.f_blocks * disk.f_frsize * reserve // 100:
            raise SeraiError(
                f"the disk's reserve of {reserve} % would be touched",
                "'serai gc --keep-free PERCENT' makes room",
                NO_ROOM,
            )


def problem(error: SeraiError | OSError | MemoryError) -> SeraiError:
    """What went wrong in words."""
    if isinstance(error, SeraiError):
        return error
    if isinstance(error, MemoryError):
        return SeraiError("that takes more memory than there is for it", code=TOO_LARGE)
    if error.errno == EDQUOT:
        return SeraiError("the session's quota is used up", "remove files in it", NO_ROOM)
    if error.errno == ENOSPC:
        return SeraiError("the disk is full", "'serai gc' makes room", NO_ROOM)
    return SeraiError(f"the transfer failed: {error.strerror}", code=FAILED)


def main(plan: str) -> int:
    """Returns the exit status."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        run(Plan(*marshal.loads(bytes.fromhex(plan))))  # noqa: S302  # from the daemon, root like us
    except BrokenPipeError:
        return 1
    except (SeraiError, OSError, MemoryError) as error:
        told = problem(error)
        os.write(2, marshal.dumps((told.message, told.hint, told.code)))
        return 1
    return 0


if __name__ == "__main__":
    stdio.open_closed()
    sys.exit(main(sys.argv[1]))
