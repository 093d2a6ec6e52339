"""A program inside a sandbox that looks again and again, and others that wait until it has."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence

from tests.support.sandbox import Room, reap
from tests.support.waiting import DEADLINE, wait_for

LOOP = """
import os
seen = set()
while not os.path.exists("enough"):
    seen |= look()
    print("looked", flush=True)
print(*sorted(seen), flush=True)
"""


class Watcher:
    """``code`` makes a function ``look``, which returns what it sees this time, as texts."""

    def __init__(self, room: Room, code: str, filters: Sequence[bytes] | None = None) -> None:
        self._room = room
        # Shared memory: those who wait have been forked, and have no descriptors left.
        self._looks = mmap.mmap(-1, 8)
        self._last = ""
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        argv = ["python3", "-c", code + LOOP]
        self._entered = room.start(argv, (null, write, null), filters=filters)
        os.close(write)
        os.close(null)
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()
        wait_for(self._count)

    def _read(self, descriptor: int) -> None:
        with open(descriptor) as lines:  # a descriptor
            for self._last in lines:
                self._looks[:] = (self._count() + 1).to_bytes(8, "big")

    def _count(self) -> int:
        return int.from_bytes(self._looks[:], "big")

    def looked(self) -> None:
        """Wait until it has looked once more, from beginning to end; in any child, too."""
        wanted = self._count() + 2
        wait_for(lambda: self._count() >= wanted)

    def seen(self) -> set[str]:
        """All that it has seen; it ends."""
        (self._room.session.home / "enough").touch()
        assert reap(self._entered) == 0
        self._reader.join(DEADLINE)
        (self._room.session.home / "enough").unlink()
        return set(self._last.split())
