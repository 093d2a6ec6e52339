"""Work that is done side by side, and ends as one at Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_CLEAN_UP = 20.0  # seconds that an interrupted thread gets


def in_parallel(actions: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Run each action in a thread of its own; raises the first error when all have ended.

    At Ctrl-C ``stop`` is set and our child processes are told to end, so that the actions soon
    fail and clean up after themselves.
    """
    errors: list[BaseException] = []
    # Not Thread.join(): once interrupted, Python 3.10 and 3.11 take the thread for ended.
    ended = [threading.Event() for _ in actions]

    def guarded(action: Callable[[], None], end: threading.Event) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
        finally:
            end.set()

    try:
        for pair in zip(actions, ended, strict=True):
            # Daemons: whatever happens, they and (by PR_SET_PDEATHSIG) their VMs end with us.
            threading.Thread(target=guarded, args=pair, daemon=True).start()
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
