"""What the filters refuse is told: the kernel asks about each such call, and is answered "no".

A filter's rule can ask instead of refusing (SECCOMP_RET_USER_NOTIF in seccomp_unotify(2)). Whoever
holds the filter's listener then sees who calls, and the caller waits for the answer. Here the
answer is always the same error. When nobody holds the listener any more, the call fails all the
same, with ENOSYS. So a call that is asked about is as refused as one that is not.

Who holds a listener could let calls through. A payload never has ours: it goes to the daemon, and
is closed before the command is executed. It can make none of its own: the filter ``baseline``
refuses that flag of seccomp(2).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from errno import EINTR, ENOENT, EPERM

# linux/seccomp.h: the ioctls, struct seccomp_notif (80 bytes) and struct seccomp_notif_resp
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _ANSWER = 80, struct.Struct("=QqiI")
WHAT = "Unix sockets"
MOST_PROGRAMS = 8
_LONGEST = 40
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
SHARE = 20
"""How many times as long as an answer took the next one waits: most of the time is others'."""
LONGEST_PAUSE = 0.1
"""Seconds: an answer also takes long if we were kept from the processor."""


class Refused:
    """How often Unix sockets were refused, and to which programs (the first few)."""

    def __init__(self) -> None:
        self.times = 0
        self._programs: dict[str, None] = {}

    def note(self, program: str) -> None:
        self.times += 1
        if len(self._programs) < MOST_PROGRAMS:
            self._programs.setdefault(program)

    def told(self) -> list[dict[str, object]]:
        """For clients; empty if nothing was refused."""
        if not self.times:
            return []
        return [{"what": WHAT, "times": self.times, "programs": list(self._programs)}]

    def json(self) -> str:
        """The same as JSON, for whom the module json is too large."""
        if not self.times:
            return "[]"
        programs = ",".join(f'"{program}"' for program in self._programs)
        return f'[{{"what":"{WHAT}","times":{self.times},"programs":[{programs}]}}]'


def refuse(listener: int) -> str | None:
    """Answer the call that waits; returns the calling program's name, '' if none waits any more.

    None if no process with the filter is left, or no call can be answered: then the caller closes
    the listener, and the kernel refuses by itself. Waits for nothing.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    events = dict(poll.poll(0)).get(listener, 0)
    if not events & select.POLLIN:
        return None if events else ""
    notification = bytearray(_NOTIFICATION)
    try:
        fcntl.ioctl(listener, _RECEIVE, notification)
    except OSError as error:
        return "" if error.errno in (ENOENT, EINTR) else None  # it was killed; we were signalled
    number, pid = struct.unpack_from("=QI", notification)
    program = _program(pid)
    answer = bytearray(_ANSWER.pack(number, 0, -EPERM, 0))
    while True:
        try:
            fcntl.ioctl(listener, _SEND, answer)
        except InterruptedError:
            continue
        except OSError as error:
            return program if error.errno == ENOENT else None  # it was killed
        return program


def _program(pid: int) -> str:
    """The name of a process's program, which the process may have chosen: short and plain."""
    try:
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115, PTH119
    except OSError:
        return "?"
    return "".join(each if each in _PLAIN else "?" for each in name[:_LONGEST])


def pause(start: float) -> float:
    """When to answer next, of the clock time.monotonic(), if an answer was begun at ``start``."""
    now = time.monotonic()
    return now + min(SHARE * (now - start), LONGEST_PAUSE)
