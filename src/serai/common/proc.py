"""What /proc tells of processes and mounts; proc(5)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_OCTAL = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: ``device`` is major:minor, ``root`` what of the file system is mounted,
    ``super_options`` are the file system's own."""

    device: str
    root: str
    place: str
    options: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...]


def mounts(mountinfo: str) -> list[Mount]:
    """Every mount in the text of /proc/PID/mountinfo, in the order in which they were made."""
    found = []
    for line in filter(None, mountinfo.split("\n")):  # a place may hold other ends of lines
        before, _, after = line.partition(" - ")
        device, root, place, options = before.split(" ")[2:6]
        kind, source, super_options = after.split(" ", 2)
        for octal, character in _OCTAL:
            root, place = (text.replace(octal, character) for text in (root, place))
        parts = tuple(options.split(",")), kind, source, tuple(super_options.split(","))
        found.append(Mount(device, root, place, *parts))
    return found


def mounts_of(process: int | str = "self") -> list[Mount]:
    """What a process sees mounted. Raises OSError if it is gone."""
    return mounts(Path(f"/proc/{process}/mountinfo").read_text(errors="surrogateescape"))


def children(pid: int) -> list[int]:
    """The children of a process's first thread; none if it is gone."""
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def memory(meminfo: str) -> dict[str, int]:
    """KiB of memory by what they are, from the text of /proc/meminfo: proc(5)."""
    rows = (line.split() for line in meminfo.splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


def pss(pid: int | str) -> int:
    """Bytes a process has alone, with its part of what it shares. Raises OSError if it is gone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def sockets(sockstat: str) -> int:
    """How many TCP sockets are in use, from the text of /proc/PID/net/sockstat or sockstat6."""
    for line in sockstat.splitlines():
        if line.startswith(("TCP: inuse ", "TCP6: inuse ")):
            return int(line.split()[2])
    return 0
