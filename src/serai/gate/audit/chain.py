"""The files of the audit log: the form of a line, and how to read them while they are written.

A file is named by the number (seq) of its first line, and the lines in it are numbered without a
gap. Each carries the SHA-256 of the line before; the file ``head`` says which was the last.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

HEAD = "head"
SPARE = "spare"
NO_HASH = "0" * 64
# The longest line that is written, and so the longest that is read.
MAX_LINE = 256 << 10
# What is read through to the line that is looked for, rather than halved once more.
_NEAR = 64 << 10

_FILE = re.compile(r"audit-([0-9]{16})\.jsonl")
_HEAD = re.compile(r"([0-9]{16}) ([0-9a-f]{64})\n")
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

Entry = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A line, by its number and the hash of its bytes without the newline."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq:016d} {self.hash}\n"


START = Mark(0, NO_HASH)


def read(folder: Path, after: int, limit: int, session: str | None = None) -> list[Entry]:
    """At most ``limit`` entries with a seq above ``after``, in order; of one session, if given.

    May run while the log is written. A line that is no entry comes as one with the event
    ``unreadable``. Raises OSError.
    """
    found = (_entry(seq, raw) for seq, raw in _after(folder, after) if _may_be_of(raw, session))
    wanted = (entry for entry in found if session in (None, entry.get("session")))
    return list(islice(wanted, limit))


def tail(folder: Path, count: int, session: str | None = None) -> list[Entry]:
    """The last ``count`` entries, in order; of one session, if given. Raises OSError."""
    found: list[Entry] = []
    for first, path in reversed(files(folder)):
        lines = ((seq, raw) for seq, raw in _numbered(path, first) if _may_be_of(raw, session))
        last = [_entry(seq, raw) for seq, raw in deque(lines, count - len(found))]
        found[:0] = [entry for entry in last if session in (None, entry.get("session"))]
        if len(found) >= count:
            break
    return found


def last_seq(folder: Path) -> int:
    """The number of the last entry that ``head`` knows of; 0 if there is none. Raises OSError."""
    head = read_head(folder)
    return head.seq if head else 0


def files(folder: Path) -> list[tuple[int, Path]]:
    """The log's files with the number of the first line, oldest first."""
    named = ((_FILE.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in named if match)


def read_head(folder: Path) -> Mark | None:
    """The last line, as the log last noted it; None if that is not to be read."""
    try:
        return parse_mark((folder / HEAD).read_bytes()[:256])
    except FileNotFoundError:
        return None


def parse_mark(raw: bytes) -> Mark | None:
    """The mark that is written in ``raw``."""
    match = _HEAD.fullmatch(raw.decode("latin-1"))
    return Mark(int(match[1]), match[2]) if match else None


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their newlines; a longer one than any entry comes in pieces."""
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE):
            yield raw


def _numbered(path: Path, first: int, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file after the one numbered ``after``, each with its number."""
    with path.open("rb") as file:
        number = _approach(file, first, after)
        while raw := file.readline(MAX_LINE):
            if raw.endswith(b"\n"):
                if number > after:
                    yield number, raw
                number += 1


def _approach(file: BinaryIO, first: int, after: int) -> int:
    """Go to the start of a line not far before the one after ``after``; returns its number."""
    number, low, high = first, 0, file.seek(0, os.SEEK_END)
    while high - low > _NEAR:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline(MAX_LINE)
        start = file.tell()
        entry = parse(file.readline(MAX_LINE))
        if entry and first <= entry["seq"] <= after:
            number, low = entry["seq"], start
        else:
            high = middle
    file.seek(low)
    return number


def _after(folder: Path, seq: int) -> Iterator[tuple[int, bytes]]:
    """The lines after the one numbered ``seq``. A file that is pruned meanwhile is left out."""
    found = files(folder)
    for (first, path), following in zip_longest(found, found[1:]):
        if following and following[0] <= seq + 1:
            continue
        with suppress(FileNotFoundError):
            yield from _numbered(path, first, seq)


def end(path: Path, first: int) -> tuple[int, Mark, int]:
    """How many whole lines there are in a file, the last of them, and the offset of its end."""
    count, last, whole, offset = 0, b"", 0, 0
    for raw in lines(path):
        offset += len(raw)
        if raw.endswith(b"\n"):
            count, last, whole = count + 1, raw, offset
    return count, Mark(first + count - 1, sha256(last[:-1]).hexdigest()), whole


def has(folder: Path, mark: Mark) -> bool:
    """Whether the line that ``mark`` means is there as it was."""
    if mark.seq == 0:
        return mark == START
    seq, raw = next(_after(folder, mark.seq - 1), (0, b""))
    return Mark(seq, sha256(raw[:-1]).hexdigest()) == mark


def parse(raw: bytes) -> Entry | None:
    """The entry in a line; None if it cannot be one."""
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("seq")) is not int:
        return None
    return entry if isinstance(entry.get("prev"), str) else None


def _entry(seq: int, raw: bytes) -> Entry:
    entry = parse(raw)
    return entry if entry and entry["seq"] == seq else {"seq": seq, "event": "unreadable"}


def _may_be_of(raw: bytes, session: str | None) -> bool:
    """Whether it is worth parsing a line in the search for a session's."""
    return session is None or f'"session":{encode(session)}'.encode("ascii") in raw
