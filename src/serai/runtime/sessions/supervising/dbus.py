"""Which of systemd's messages concern sessiond, without reading the others."""

from __future__ import annotations

import struct
from collections.abc import Iterator

JOB_REMOVED = "JobRemoved"
_FIXED = 16
"""Bytes of a message before the variable part of its header."""
_SIGNAL = 4


def taken(buffer: bytearray) -> Iterator[bytes]:
    """Take whole messages off ``buffer``; of signals only those that tell of a job's end.

    The manager's private socket sends each change of each unit, with all its properties, without
    being asked to subscribe. To read them all was most of what a create cost sessiond. A message's
    length is in its first 16 bytes: "Message Format" in the D-Bus specification.
    """
    while len(buffer) >= _FIXED:
        order = "<" if buffer[:1] == b"l" else ">"
        body, _, fields = struct.unpack_from(f"{order}III", buffer, 4)
        begin = _FIXED + (fields + 7 & ~7)
        if len(buffer) < begin + body:
            return
        message = bytes(buffer[: begin + body])
        del buffer[: begin + body]
        if message[1] != _SIGNAL or JOB_REMOVED.encode() in message[:begin]:
            yield message


def unit_path(unit: str) -> str:
    """The object of a unit; all but letters and digits are escaped: sd_bus_path_encode(3)."""
    label = "".join(each if each.isalnum() else f"_{ord(each):02x}" for each in unit)
    return f"/org/freedesktop/systemd1/unit/{label}"
