"""Work that is done side by side, and ends as one at Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from serai.common import proc

_CLEAN_UP = 20.0  # seconds that an interrupted thread gets
EMULATOR = 512
"""MiB that QEMU may take for itself, half of it for translated code."""


def processors() -> int:
    """How many we may use."""
    return len(os.sched_getaffinity(0))


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """MiB that nothing uses now; proc(5), MemAvailable."""
    return proc.memory(meminfo.read_text()).get("MemAvailable", 0) >> 10


def guests_at_once(mib: int, meminfo: Path = Path("/proc/meminfo")) -> int:
    """How many guests with ``mib`` MiB of memory may run beside each other here, at least one.

    An emulated guest keeps a processor busy; what a guest finds free must not be what others need.
    """
    return max(1, min(processors(), free_memory(meminfo) // (mib + EMULATOR)))


def in_parallel(
    actions: Sequence[Callable[[], None]], stop: threading.Event, at_once: int | None = None
) -> None:
    """Run the actions beside each other; raises the first error when all have ended.

    No more than ``at_once`` of them run at a time, and they begin in their order then.

    At Ctrl-C ``stop`` is set and our child processes are told to end, so that the actions soon
    fail and clean up after themselves.
    """
    errors: list[BaseException] = []
    # Not Thread.join(): once interrupted, Python 3.10 and 3.11 take the thread for ended.
    ended = [threading.Event() for _ in actions[: at_once or len(actions)]]
    # Who is free takes the next one. Threads that each had its own could begin in any order.
    left = iter(actions)

    def work(end: threading.Event) -> None:
        for action in left:
            try:
                if not stop.is_set():
                    action()
            except BaseException as error:
                errors.append(error)
        end.set()

    try:
        for end in ended:
            # Daemons: whatever happens, they and (by PR_SET_PDEATHSIG) their VMs end with us.
            threading.Thread(target=work, args=[end], daemon=True).start()
        for end in ended:
            while not end.wait(1):  # now and then, because a signal may have come to a thread
                pass
    except KeyboardInterrupt:
        stop.set()
        _end_children()
        for end in ended:
            end.wait(_CLEAN_UP)
        raise
    if errors:
        raise errors[0]


def _end_children() -> None:
    """Ask every child process to end; proc_pid_task_tid_children(5)."""
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread, or a child, may just have ended
            for pid in task.read_text().split():
                os.kill(int(pid), signal.SIGTERM)
