"""Checks that the audit log is whole by following its chain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from serai.gate.audit import chain
from serai.gate.audit.chain import HEAD, START, Entry, Mark


@dataclass(frozen=True)
class Report:
    """What ``verify`` found: how many entries, from which to which; ``problem`` is "" if ``ok``."""

    ok: bool
    entries: int
    first: int
    last: int
    problem: str


def verify(folder: Path) -> Report:
    """Check every line, the files' names and ``head``. May run while the log is written.

    Raises OSError if the log cannot be read.
    """
    for _ in range(2):
        before = _state(folder)
        try:
            report = _Check(folder).report()
        except FileNotFoundError:  # pruned under our hands
            continue
        # A line that is being written looks torn.
        if report.ok or _state(folder) == before:
            return report
    return _Check(folder).report()


class _Broken(Exception):  # noqa: N818  # a finding, not a fault
    """From here on nothing fits."""


class _Check:
    """One walk along the chain."""

    def __init__(self, folder: Path) -> None:
        # Before the lines: those that are written meanwhile only come on top.
        self._head = chain.read_head(folder)
        self._files = chain.files(folder)
        self._problems: list[str] = []
        self._entries = 0
        self._first = 0
        self._last = START
        self._where = ""
        self._pruned = 0

    def report(self) -> Report:
        try:
            for number, (first, path) in enumerate(self._files):
                self._file(first, path, newest=number == len(self._files) - 1)
            self._check_end()
        except _Broken as broken:
            self._problems.append(str(broken))
        problem = "; ".join(self._problems)
        return Report(not problem, self._entries, self._first, self._last.seq, problem)

    def _file(self, first: int, path: Path, *, newest: bool) -> None:
        lines = chain.lines(path)
        for number, raw in enumerate(lines, 1):
            where = f"{path.name} line {number}"
            if not raw.endswith(b"\n"):
                torn = "is unfinished" if newest else "has no end"
                raise _Broken(f"{where} {torn}: it is torn, or longer than any entry")
            entry = chain.parse(raw)
            if entry is None:
                raise _Broken(f"{where} is no entry: it was changed")
            if not self._first:
                self._first = first
                if first > 1:
                    self._last = Mark(first - 1, entry["prev"])
            self._link(entry, where, lines)
            if number == 1 and entry["seq"] != first:
                raise _Broken(f"{path.name} begins with entry {entry['seq']}: it was renamed")
            self._last = Mark(entry["seq"], sha256(raw[:-1]).hexdigest())
            self._where = where
            self._entries += 1
            if self._head and self._head.seq == self._last.seq and self._head != self._last:
                raise _Broken(f"{where} was changed: it is not the line that {HEAD} names")

    def _link(self, entry: Entry, where: str, following: Iterator[bytes]) -> None:
        """Check that an entry is the one after the last."""
        seq, expected, fits = entry["seq"], self._last.seq + 1, entry["prev"] == self._last.hash
        event = entry.get("event")
        if fits and event == "missing":
            after, through = _number(entry.get("after")), entry.get("through")
            known = isinstance(through, int)
            gone = _range(after + 1, _number(through)) if known else f"entries after {after}"
            self._problems.append(f"{gone} were missing when the log was opened ({where})")
            if (after, through) == (expected - 1, seq - 1):
                return
        if seq != expected:
            raise _Broken(f"{where} {self._misplaced(seq, expected, fits, following)}")
        if not fits:
            raise _Broken(f"{self._where or where} was changed, or its hash in {where}")
        if event == "changed":
            self._problems.append(f"entry {entry.get('entry')} was changed before {where}")
        elif event == "pruned":
            self._pruned = max(self._pruned, min(_number(entry.get("through")), seq - 1))

    def _misplaced(self, seq: int, expected: int, fits: bool, following: Iterator[bytes]) -> str:
        if fits:
            return f"was changed: it has the number {seq} and not {expected}"
        if seq < expected:
            return f"is entry {seq} where {expected} should be: it was moved or comes twice"
        later = any(entry and entry["seq"] == expected for entry in map(chain.parse, following))
        if later:
            return f"is entry {seq} where {expected} should be: entries were reordered"
        return f"is entry {seq}: {_range(expected, seq - 1)} before it were removed"

    def _check_end(self) -> None:
        last = self._last.seq
        if self._head is None:
            if self._entries:
                raise _Broken(f"{HEAD} is missing or not readable: the last lines may be missing")
        elif self._head.seq > last:
            raise _Broken(f"{_range(last + 1, self._head.seq)} are missing at the end")
        elif 0 < self._head.seq < self._first:
            raise _Broken(f"{HEAD} was changed: it names entry {self._head.seq}")
        if self._first > 1 and self._pruned < self._first - 1:
            gone = _range(1, self._first - 1)
            raise _Broken(f"{gone} are gone, and no entry says that they were pruned")


def _range(first: int, last: int) -> str:
    if last < first:
        return "no entries"
    return f"entry {first}" if first == last else f"entries {first} to {last}"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _state(folder: Path) -> object:
    """Something that differs when the log has been written in between."""
    files = chain.files(folder)
    with suppress(FileNotFoundError):
        return files, chain.read_head(folder), files and files[-1][1].stat().st_size
    return None
