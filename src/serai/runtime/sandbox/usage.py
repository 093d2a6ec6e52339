"""What a cgroup uses, may use, and could not get: its files, as cgroup-v2.rst describes them.

None where the kernel does not count: with v1, without a controller, and the most memory before
Linux 5.19. What grows begins with the unit's start.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

# Of memory.stat: what the kernel can take back from nobody without killing; there is no swap.
_HELD = ("anon", "shmem", "slab_unreclaimable", "kernel_stack", "pagetables", "percpu", "sock")
_MICROSECONDS = 1e6


def used(cgroup: Path) -> dict[str, Any]:
    """What ``serai show`` tells: bytes, seconds of CPU time, processes and threads."""
    cpu = _fields(cgroup / "cpu.stat")
    return {
        "memory": _number(cgroup / "memory.current"),
        "memory_peak": _number(cgroup / "memory.peak"),
        "memory_limit": _number(cgroup / "memory.max"),
        "cpu_seconds": _seconds(cpu.get("usage_usec")),
        "cpu_limit": _cpus(cgroup / "cpu.max"),
        "cpu_waited": _seconds(cpu.get("throttled_usec")),
        "tasks": _number(cgroup / "pids.current"),
        "tasks_limit": _number(cgroup / "pids.max"),
        "tasks_refused": refused(cgroup),
    }


def cpu_seconds(cgroup: Path) -> float | None:
    """How much CPU time it has used."""
    return _seconds(_fields(cgroup / "cpu.stat").get("usage_usec"))


def refused(cgroup: Path) -> int | None:
    """How many processes and threads above the limit were wanted."""
    return _fields(cgroup / "pids.events").get("max")


def held(cgroup: Path) -> int:
    """Bytes of memory that only the end of processes, or of files in memory, frees."""
    fields = _fields(cgroup / "memory.stat")
    return sum(fields.get(name, 0) for name in _HELD)


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / _MICROSECONDS


def _cpus(file: Path) -> float | None:
    """``cpu.max`` has two numbers of microseconds, or "max" for the first."""
    with contextlib.suppress(OSError, ValueError):
        most, period = file.read_text().split()
        return int(most) / int(period)
    return None


def _number(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _fields(file: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in file.read_text().splitlines())
        return {name: int(value) for name, value in pairs}
    return {}
