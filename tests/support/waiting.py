"""How tests wait: for a condition, with a deadline, and never for a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 30.0  # seconds; a machine or a build is given more


def wait_for(
    condition: Callable[[], object],
    deadline: float = DEADLINE,
    told: Callable[[], str] = lambda: "",
) -> None:
    """Return as soon as ``condition`` holds; fail after ``deadline`` seconds, with what is told."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline:g} s in vain. {told()}"
        time.sleep(0.02)


def listens(path: Path) -> bool:
    """Whether somebody accepts connections at a Unix socket: its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as end:
        return end.connect_ex(str(path)) == 0
