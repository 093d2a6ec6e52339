"""What a cgroup's files say and do, with so few imports that a session's holder has it too."""

from __future__ import annotations

import contextlib
import os
import signal


def members(cgroup: str | os.PathLike[str]) -> list[int]:
    """The processes in the cgroup and below; none if it is gone."""
    found: list[int] = []
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs") as file:  # noqa: PTH123
            found += [int(line) for line in file]
    return found


def out_of_memory(cgroup: str | os.PathLike[str]) -> int:
    """How many processes in it and below the kernel has killed for want of memory.

    0 where it does not count them: with v1, and without a memory controller (cgroup-v2.rst).
    """
    try:
        with open(f"{os.fspath(cgroup)}/memory.events") as file:  # noqa: PTH123
            return int(dict(line.split() for line in file).get("oom_kill", 0))
    except OSError:
        return 0


def kill(cgroup: str | os.PathLike[str]) -> None:
    """Send SIGKILL to everything in the cgroup and below; with v1 what forks meanwhile stays."""
    try:
        with open(f"{os.fspath(cgroup)}/cgroup.kill", "w") as switch:  # noqa: PTH123
            switch.write("1")
    except OSError:
        for pid in members(cgroup):
            tell(pid, signal.SIGKILL)


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
