"""Taking ended children away, when they do their best to stay.

A payload is the daemon's child. Its threads can ask to be traced by their parent
(PTRACE_TRACEME), and so by the daemon. A thread that ends then stays a zombie until its tracer has
waited for it. Until then its process does not end either: not for SIGKILL, and with it neither the
PID namespace nor the session.
"""

from __future__ import annotations

import contextlib
import os

ALONE = 3  # links of /proc/PID/task: two, and one for each thread
WALL = 0x40000000  # linux/wait.h: children of every kind, threads among them


def take_threads(pid: int) -> None:
    """Take the ended threads of a child away.

    The kernel tells of each as it ends (SIGCHLD), and not of the process that waits for them.
    """
    try:
        if os.stat(f"/proc/{pid}/task").st_nlink <= ALONE:  # noqa: PTH116  # quick: there are many
            return
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return
    for thread in threads:
        if thread != pid:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, thread, os.WEXITED | os.WNOHANG | WALL)


def take(pid: int) -> int | None:
    """Take an ended child away: its status as waitpid(2) has it, None if somebody else did."""
    try:
        return os.waitpid(pid, os.WNOHANG)[1]
    except ChildProcessError:
        return None
