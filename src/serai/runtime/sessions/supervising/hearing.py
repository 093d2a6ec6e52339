"""Answers the kernel's questions about refused calls of a session's payloads: see ``refusals``."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque

from serai.runtime.sandbox import refusals
from serai.runtime.sandbox.refusals import Refused


class Hearing:
    """All listeners of a session, one answer at a time: who calls for ever takes others no time."""

    def __init__(self) -> None:
        self.refused = Refused()
        self._waiting: deque[tuple[int, Refused]] = deque()
        self._rests = False

    def add(self, listener: int, payload: Refused) -> None:
        """Answer at ``listener``, which is ours to close, and count for ``payload``, too."""
        asyncio.get_running_loop().add_reader(listener, self._asked, listener, payload)

    def _asked(self, listener: int, payload: Refused) -> None:
        asyncio.get_running_loop().remove_reader(listener)
        self._waiting.append((listener, payload))
        if not self._rests:
            self._answer()

    def _answer(self) -> None:
        self._rests = bool(self._waiting)
        if not self._waiting:
            return
        start = time.monotonic()
        listener, payload = self._waiting.popleft()
        program = refusals.refuse(listener)
        if program is None:
            os.close(listener)
        else:
            for each in (payload, self.refused) if program else ():
                each.note(program)
            self.add(listener, payload)
        asyncio.get_running_loop().call_at(refusals.pause(start), self._answer)
