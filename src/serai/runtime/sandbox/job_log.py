"""A job's output in one file: its first MiB, and its last. One process writes, others read.

The file begins with the number of bytes that were ever written. Then comes the head, and then a
ring: byte N of the output, from HEAD on, lies at place (N - HEAD) % RING of it. So each byte has
one number for ever, from which a reader goes on, and a file never grows beyond that.

A reader takes no lock. It reads, looks at the number again, and forgets what may have been written
over meanwhile. The ring is one write larger than what is promised, for a write that is under way.
"""

from __future__ import annotations

import os
import struct

HEAD = TAIL = 1 << 20
CHUNK = 64 << 10
RING = TAIL + CHUNK
_TOTAL = struct.Struct("<Q")


def total(file: int) -> int:
    """How many bytes were ever written."""
    raw = os.pread(file, _TOTAL.size, 0)
    return int(_TOTAL.unpack(raw)[0]) if len(raw) == _TOTAL.size else 0


def append(file: int, before: int, data: bytes) -> int:
    """Write at most CHUNK bytes after the ``before`` that are there; returns how many there are.

    Raises OSError. Then all is as it was, but for what is too old to be promised.
    """
    after = before
    while data:
        place, room = _place(after)
        done = os.pwrite(file, data[:room], place)
        after, data = after + done, data[done:]
    os.pwrite(file, _TOTAL.pack(after), 0)
    return after


def read(file: int, offset: int, most: int) -> tuple[int, bytes]:
    """At most ``most`` bytes from byte ``offset`` on, and the number of the first of them.

    That is larger than ``offset`` where something between head and tail is gone.
    """
    while True:
        end = total(file)
        begin = offset if offset < HEAD else max(offset, end - TAIL)
        place, room = _place(begin)
        room = min(room, max(most, 0), max(end - begin, 0))
        data = os.pread(file, room, place)
        if begin < HEAD or begin >= total(file) - TAIL:
            return begin, data


def _place(offset: int) -> tuple[int, int]:
    """Where a byte lies in the file, and how many follow it there."""
    if offset < HEAD:
        return _TOTAL.size + offset, HEAD - offset
    at = (offset - HEAD) % RING
    return _TOTAL.size + HEAD + at, RING - at
