"""Whether this VM has room for one more session, and how full it is."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serai.common import proc
from serai.fleet.subjects import OFFERS

RUNS = frozenset({"creating", "ready", "active", "frozen"})
"""The states of sessions that take memory."""
LEAST = 0.1
"""The part of memory, of the disk and of the tasks that stays free."""
SESSION = 64 << 20
"""Bytes of memory that a session counts for, where nobody said how many may be."""
OFFERED = 0.5
"""Seconds for which an offer counts as its part of a session: one of so many is taken."""


class Occupancy:
    """How many sessions there are, with those that are on their way."""

    def __init__(self, most: int, root: Path, clock: Callable[[], float]) -> None:
        """``most`` sessions; 0: as many as there is room for."""
        self._most, self._root, self._clock = most, root, clock
        self._offers: deque[float] = deque()
        self.sessions = 0

    def count(self, sessions: Mapping[str, Mapping[str, Any]]) -> None:
        """These are there."""
        self.sessions = sum(each["state"] in RUNS for each in sessions.values())

    def offered(self) -> None:
        """One more may come."""
        self._offers.append(self._clock())

    @property
    def _coming(self) -> float:
        while self._offers and self._offers[0] < self._clock() - OFFERED:
            self._offers.popleft()
        return len(self._offers) / OFFERS

    @property
    def load(self) -> float:
        """Which part of it is used."""
        most = self._most or max(1.0, memory(self._root)[0] / SESSION)
        return (self.sessions + self._coming) / most

    @property
    def full(self) -> str:
        """What there is no room of; "" if there is room."""
        if self._most and self.sessions + self._coming >= self._most:
            return f"it has {self.sessions} sessions, and may have {self._most}"
        whole, free = memory(self._root)
        if free < LEAST * whole:
            return "there is little memory"
        if tasks(self._root) > 1 - LEAST:
            return "there are too many tasks"
        return "there is little room on the disk" if _disk(self._root) < LEAST else ""


def memory(root: Path) -> tuple[int, int]:
    """Bytes of memory, and how many of them are available: proc(5)."""
    found = proc.memory(_proc(root, "meminfo"))
    return found["MemTotal"] << 10, found["MemAvailable"] << 10


def tasks(root: Path) -> float:
    """Which part of all tasks that may be there are."""
    there = int(_proc(root, "loadavg").split()[3].partition("/")[2])
    return there / int(_proc(root, "sys/kernel/pid_max"))


def _disk(root: Path) -> float:
    try:
        found = os.statvfs(root / "sessions")
    except OSError:  # it is not for us to see; sessiond refuses what has no room
        return 1.0
    return found.f_bavail / max(1, found.f_blocks)


def _proc(root: Path, name: str) -> str:
    own = root / "proc" / name
    return (own if own.exists() else Path("/proc") / name).read_text()
