"""Audit logs that tests write, break and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.gate.audit import chain
from serai.gate.audit.verify import verify
from serai.gate.audit.writer import Log

LARGE = 1 << 20
SMALL = 600
"""Three lines of what ``filled`` writes fit."""

WRITING = """
import sys
from pathlib import Path
from serai.gate.audit.writer import Log
log = Log(Path(sys.argv[1]), 20000, 1000)
while True:
    print(log.append({"event": "decision", "session": "a"}), flush=True)
"""


@contextmanager
def opened(folder: Path, file_size: int = LARGE, files: int = 100) -> Iterator[Log]:
    log = Log(folder, file_size, files)
    try:
        yield log
    finally:
        log.close()


def filled(folder: Path, count: int, file_size: int = LARGE, files: int = 100) -> list[Path]:
    with opened(folder, file_size, files) as log:
        for number in range(count):
            log.append({"event": "decision", "session": "ab"[number % 2], "n": number})
    return paths(folder)


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*"))


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in chain.read(folder, 0, 1000)]


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def problem(folder: Path) -> str:
    report = verify(folder)
    assert report.ok is (report.problem == "")
    return report.problem
