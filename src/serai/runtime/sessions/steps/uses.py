"""When clients used each session."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator


class Uses:
    """The last use of each session by its name, as far as this process saw it.

    ``asleep`` are those that were frozen because they idled.
    """

    def __init__(self) -> None:
        self.asleep: set[str] = set()
        self._began = time.monotonic()
        self._last: dict[str, float] = {}
        self._awaited: Counter[str] = Counter()

    def last(self, name: str) -> float:
        """When it was used last, by time.monotonic(); now, while a client waits for a command."""
        return time.monotonic() if name in self._awaited else self._last.get(name, self._began)

    def note(self, name: str) -> None:
        """It is used now."""
        self._last[name] = time.monotonic()

    def arrived(self, name: str) -> None:
        """It has reached a state because somebody wanted that."""
        self.note(name)
        self.asleep.discard(name)

    def forget(self, name: str) -> None:
        """There is no such session any more."""
        self._last.pop(name, None)
        self.asleep.discard(name)

    @contextlib.contextmanager
    def awaited(self, name: str) -> Iterator[None]:
        """A client waits there for the end of a command, which would never come if it froze."""
        self._awaited[name] += 1
        try:
            yield
        finally:
            self._awaited[name] -= 1
            if not self._awaited[name]:
                del self._awaited[name]
            if name in self._last:  # it may be removed meanwhile
                self.note(name)
