"""Standard input, output and error: what every program of ours does first, and what may be shared.

``serai exec`` imports it, so it imports next to nothing.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import sys

from serai.common.printing import clean

TYPE_CHECKING = False  # see serai.runtime.cli.exec_core
if TYPE_CHECKING:
    from types import TracebackType

STANDARD = (0, 1, 2)
MEMORY = 1
"""The major number of /dev/null and its like."""

REFUSED = {
    errno.EPERM: "this takes root",
    errno.EACCES: "this takes root",
    errno.ENOENT: "'serai doctor' says what is missing of Serai",
    errno.ENOTDIR: "'serai doctor' says what is wrong with Serai's files",
    errno.EROFS: "nothing can be written there",
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "make room, or write elsewhere",
    errno.EIO: "the disk or the terminal is gone",
}
"""What no program of ours is the cause of, and what to do about it."""

HARMLESS = frozenset({3, 5, 7, 8, 9})
"""Minor numbers: null, zero, full, random, urandom. Others are the VM's memory and its log."""


def begin() -> None:
    """What every program of ours does first."""
    open_closed()
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what the system refused. Any other exception is a defect of ours."""
    if isinstance(error, BrokenPipeError):
        # Nobody reads it any more, as after head(1), and what is still unwritten is to be no error.
        posix.dup2(posix.open("/dev/null", posix.O_WRONLY), 1)
    elif isinstance(error, OSError) and error.errno in REFUSED:
        name = sys.argv[0].rpartition("/")[2]
        what = "" if error.filename is None else f"{error.filename}: "
        line = clean(f"{what}{error.strerror}; {REFUSED[error.errno]}")
        sys.stderr.write(f"{name}: {line}\n")
        if error.filename is None:  # else Python tries to write the rest once more
            posix.dup2(posix.open("/dev/null", posix.O_WRONLY), 1)
    else:
        sys.__excepthook__(kind, error, trace)


def open_closed() -> None:
    """Open /dev/null on each of 0, 1 and 2 that is closed.

    Else the next socket or file that is opened gets that number, and what is written to standard
    output goes there: a payload's output into root's connection to sessiond.
    """
    for number, name in zip(STANDARD, ("stdin", "stdout", "stderr"), strict=True):
        try:
            posix.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one: those below are open by now.
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  # a descriptor
            setattr(sys, name, stream)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little each write(2) takes. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[posix.write(descriptor, rest) :]


def above(descriptor: int) -> int:
    """The same open file under a number above 2: a library's program may have closed one."""
    if descriptor not in STANDARD:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, STANDARD[-1] + 1)
    finally:
        posix.close(descriptor)


def status_flags() -> list[tuple[int, int]]:
    """The open files of standard input, output and error, and their flags: fcntl(2), F_GETFL."""
    found = []
    for number in STANDARD:
        try:
            found.append((number, fcntl.fcntl(number, fcntl.F_GETFL)))
        except OSError:
            continue
    return found


def restore(flags: list[tuple[int, int]]) -> None:
    """Set the flags as they were: whoever shares an open file shares them, O_NONBLOCK too."""
    for number, before in flags:
        if fcntl.fcntl(number, fcntl.F_GETFL) != before:
            fcntl.fcntl(number, fcntl.F_SETFL, before)


def let_reopen(descriptor: int, group: int) -> None:
    """Let ``group`` open a pipe again by its descriptor, as scripts do with /dev/stderr.

    A pipe is its maker's alone, so a process of another user cannot. Only in the direction that the
    descriptor has, and only for a pipe without a name: there is no way to it but a descriptor.
    """
    if not posix.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):
        return
    mode = {posix.O_RDONLY: 0o640, posix.O_WRONLY: 0o620}
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & posix.O_ACCMODE
    posix.chown(descriptor, -1, group)
    posix.chmod(descriptor, mode.get(flags, 0o660))


def may_be_handed_in(descriptor: int) -> bool:
    """Whether a payload may hold this descriptor: a pipe, /dev/null and its like, a file to read.

    A payload can open again what it holds, by /proc/self/fd, as far as the file's mode lets it. So
    a file that is open for writing is not handed in: all of it could be read or changed. Nor is
    anything that others may write to, and no named pipe that others may open.
    """
    try:
        info, flags = posix.fstat(descriptor), fcntl.fcntl(descriptor, fcntl.F_GETFL)
    except OSError:
        return False
    if flags & posix.O_PATH:
        return False
    kind, others = info.st_mode & 0o170000, info.st_mode & 0o007
    if kind == 0o020000:  # noqa: PLR2004  # a character device
        return posix.major(info.st_rdev) == MEMORY and posix.minor(info.st_rdev) in HARMLESS
    if kind == 0o100000:  # noqa: PLR2004  # a regular file
        return not others & 0o002 and not flags & posix.O_ACCMODE
    return kind == 0o010000 and not others & 0o006  # noqa: PLR2004  # a pipe
