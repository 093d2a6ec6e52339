"""Fuzzing with a seed and a bound: one case after another, and daemons that must not notice.

What a case does is decided by the seed and its number alone. So ``SERAI_FUZZ_SEED=7:123`` begins
with case 123 of seed 7, which a finding names. ``SERAI_FUZZ_SECONDS`` is for how long.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_for

SECONDS = float(os.environ.get("SERAI_FUZZ_SECONDS", "1"))
SEED, _, _FIRST = os.environ.get("SERAI_FUZZ_SEED", "1").partition(":")
FAULTS = ("Traceback", "never retrieved", "ResourceWarning", "has a defect")
"""What the log of a daemon never says: each is a mistake that it, or asyncio, swallowed."""

WARM = 0.2  # of the time: until then caches fill
GROWTH = 32 << 10  # KiB of memory that come after that
LOOK = 1.0  # seconds between two looks at the daemons
SETTLE = 60.0  # seconds in which connections and payloads end when all is over

Case = Callable[[random.Random], object]
Record = Callable[[str, object], None]


@dataclass
class Watched:
    """A process that must be the same afterwards: still there, no larger, no fault in its log.

    It may have ``threads`` and ``descriptors`` more than before.
    """

    pid: int
    log: Path | None = None
    threads: int = 0
    descriptors: int = 0

    def __post_init__(self) -> None:
        self._read = 0
        self._begin = self._counted()
        self._warm = self.memory()

    def memory(self) -> int:
        """KiB; proc(5), status."""
        if self.pid == os.getpid():
            gc.collect()
        return self._status("VmRSS")

    def warmed(self) -> None:
        """From now on its memory counts."""
        self._warm = self.memory()

    def look(self) -> None:
        """It runs, and its log tells of no fault."""
        assert Path(f"/proc/{self.pid}/status").exists(), f"process {self.pid} has ended"
        assert self._status("VmRSS"), f"process {self.pid} is a zombie"
        if self.log is not None:
            with self.log.open("rb") as log:
                log.seek(self._read)
                text = log.read().decode(errors="replace")
                self._read = log.tell()
            assert not [each for each in FAULTS if each in text], text[-5000:]

    def settled(self) -> dict[str, int]:
        """By how much it has grown, once what it had to do is done."""
        most = [
            begin + more
            for begin, more in zip(self._begin, (self.descriptors, self.threads), strict=True)
        ]
        wait_for(
            lambda: all(now <= bound for now, bound in zip(self._counted(), most, strict=True)),
            SETTLE,
        )
        self.look()
        grown = self.memory() - self._warm
        assert grown <= GROWTH, f"process {self.pid} has grown by {grown} KiB"
        now = self._counted()
        names = ("descriptors", "threads")
        more = {name: now[at] - self._begin[at] for at, name in enumerate(names)}
        return {**more, "KiB": grown}

    def _counted(self) -> tuple[int, int]:
        return len(os.listdir(f"/proc/{self.pid}/fd")), self._status("Threads")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
        return 0  # a zombie has no memory


def fuzz(
    case: Case,
    *watched: Watched,
    record: Record,
    workers: int = 1,
    settle: Callable[[], object] = lambda: None,
) -> None:
    """Try cases until the time is over, then ``settle``, and see that nothing has changed.

    ``workers`` are threads, of which each takes the next case.
    """
    first = int(_FIRST or 0)
    record("seed", SEED)
    numbers = itertools.count(first)
    done = itertools.count()
    failed: list[BaseException] = []
    end = time.monotonic() + SECONDS

    def work() -> None:
        for number in numbers:
            try:
                case(random.Random(f"{SEED}:{number}"))
            except BaseException as error:
                problem = AssertionError(f"seed {SEED}:{number}: {type(error).__name__}: {error}")
                problem.__cause__ = error
                failed.append(problem)
            next(done)
            if failed or time.monotonic() > end:
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    warm = time.monotonic() + WARM * SECONDS
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(min(LOOK, SECONDS) / workers)
        try:
            for each in watched:
                each.look()
                if warm and time.monotonic() > warm:
                    each.warmed()
            warm = 0.0 if warm and time.monotonic() > warm else warm
        except AssertionError as error:
            failed.append(error)
            end = 0.0
    record("cases", next(done))
    if failed:
        raise failed[0]
    settle()
    record("grown", [each.settled() for each in watched])


def changed(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """``data`` as it is, or with something cut off, changed, doubled, put in, or of another."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 4))):
        at, to = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        kind = dice.randrange(8)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:to] + data[at:]
        elif kind == 3:
            data = data[:at] + dice.randbytes(dice.randrange(1, 9)) + data[at:]
        elif kind == 4:
            data = data[:at] + dice.choice(ODD) + data[at:]
        elif kind == 5 and data:
            at = dice.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]
        elif kind == 6:
            data = data[:at] + data[at:to] * dice.choice((2, 3, 50)) + data[to:]
        else:
            other = dice.choice(others)
            data = data[:at] + other[dice.randrange(len(other) + 1) :]
    return data


ODD = [b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"0", b"-1", b":", b",", b'"', b"{", b"[" * 600]
ODD += [b"\xff", b"\xc3", b"%00", b"\\ud800", b"1e999", b"9" * 5000, b"a" * 70000, b"\x1b[2J"]
ODD += [b"..", b"/", b"@", b";", b"\x7f", b"\xe2\x80\xae"]


def json_value(dice: random.Random, depth: int = 2) -> Any:
    """Anything that JSON can say."""
    plain: list[Any] = [None, True, False, 0, -1, 1, 1.5, 1e308, 2**31, 2**63, -(2**64), 10**400]
    plain += ["", "one", "a" * 300, "..", "\0", "\ud800", "é\u202e", "\x1b[2J", "-rf", "%i", "/"]
    if depth and dice.random() < 0.3:
        inner = [json_value(dice, depth - 1) for _ in range(dice.randrange(4))]
        return inner if dice.random() < 0.5 else {str(each)[:20]: each for each in inner}
    return dice.choice(plain)
