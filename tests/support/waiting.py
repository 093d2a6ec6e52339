"""How tests wait: for a condition, with a deadline, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

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
