"""A process whose thread is traced by its parent ends when the parent takes the thread away."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from pathlib import Path

from serai.runtime.sandbox import reaper
from tests.support.waiting import wait_for


def trace_a_thread() -> None:
    """End a thread that has asked to be traced by this process's parent, then end the process."""
    libc = ctypes.CDLL(None)
    thread = threading.Thread(target=libc.ptrace, args=(0, 0, 0, 0))
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGKILL)


def test_only_a_parent_that_takes_its_threads_away_sees_it_end() -> None:
    pid = os.fork()
    if pid == 0:
        trace_a_thread()
    with open(os.pidfd_open(pid)) as pidfd:  # noqa: PTH123
        stat = Path(f"/proc/{pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        ended, _, _ = select.select([pidfd], [], [], 0)
        assert not ended, "no attack"
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)

        def taken() -> bool:
            reaper.take_threads(pid)  # the thread may end after the process's first one
            return bool(select.select([pidfd], [], [], 0)[0])

        wait_for(taken)
        assert reaper.take(pid) == signal.SIGKILL
