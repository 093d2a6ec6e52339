"""How many refusals a session gets at once, and how long it waits for further ones."""

from __future__ import annotations

import asyncio


class Allowance:
    """How many refusals a session may cause before each has to wait.

    Denials fill the audit log, and what is malformed costs time to read.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = asyncio.get_running_loop().time()

    def take(self) -> bool:
        """Take one if there is one."""
        if self.wait() == 0:
            return True
        self._left += 1
        return False

    def wait(self) -> float:
        """Take one; returns the seconds to wait before it is answered."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= 1
        return max(0.0, -self._left / self._rate)
