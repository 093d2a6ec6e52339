"""Measures inside a VM how long a switch takes and whether it loses anything; prints a JSON array.

Run as ``python3 FILE`` by root, on the standard library and the runtime alone: `invoke bench` sends
it there. Two sessions have a hundred processes each. A switch freezes one of them and thaws the
other. In each a job counts, in a file that this program sees too and in its output. It judges
nothing.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.runtime.library import Session, Vm, connect

HERE = "unix:///run/serai/control.sock"
SLEEPING, COMPUTING = 96, 4
SWITCHES, WARM_UP = 1000, 10
PERCENT = 0.99
DEADLINE = 120.0
SIZE = 8
COUNTED = ("processes lost", "numbers missing", "frozen ones that went on", "times none was active")

# Says each number in its output, where a number that is lost or said twice would show, and then in
# the file.
COUNT = """
import itertools, mmap, time
with open("count", "wb+") as file:
    file.write(bytes(8)); file.flush()
    shared = mmap.mmap(file.fileno(), 8)
for number in itertools.count(1):
    print(number, flush=True)
    shared[:] = number.to_bytes(8, "little")
    time.sleep(0.002)
"""
SLEEP = f"for n in {{2..{SLEEPING}}}; do sleep infinity & done; wait"
COMPUTE = f"for n in {{2..{COMPUTING}}}; do (while :; do :; done) & done; while :; do :; done"


class Busy:
    """A session with many processes."""

    def __init__(self, vm: Vm, name: str) -> None:
        self.session = vm.create(name)
        self.name = name
        self._file = Path("/sessions", name, "count")
        self.job = self.session.start(["python3", "-c", COUNT])
        self.begin(SLEEP, SLEEPING)
        until(lambda: self._file.exists() and self._file.stat().st_size == SIZE)
        until(lambda: self.count > 0)

    def begin(self, script: str, processes: int) -> None:
        """Run a shell script that makes so many processes."""
        before = len(self.processes())
        self.session.start(["bash", "-c", script])
        until(lambda: len(self.processes()) >= before + processes)

    @cached_property
    def _shared(self) -> mmap.mmap:
        with self._file.open("rb") as file:
            return mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ)

    @property
    def count(self) -> int:
        """How far its job is."""
        return int.from_bytes(self._shared[:], "little")

    def goes_on(self) -> None:
        """Wait until its job has counted on."""
        before = self.count
        until(lambda: self.count > before)

    @cached_property
    def cgroup(self) -> Path:
        pattern = f"**/serai-session@{self.name}.service"
        return next(Path("/sys/fs/cgroup").glob(pattern))

    def processes(self) -> set[tuple[str, str]]:
        """PID and start of each, the session's own too: proc(5), the 22nd field of stat."""
        found = set()
        for folder, _, _ in os.walk(self.cgroup):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                stat = Path(f"/proc/{pid}/stat").read_text()
                found.add((pid, stat.rpartition(")")[2].split()[19]))
        return found

    def missing(self) -> int:
        """How many numbers are not where they belong in its job's output, which ends."""
        self.job.kill("KILL")
        self.job.wait(DEADLINE)
        said = b"".join(self.job.output()).split(b"\n")[:-1]
        wrong = sum(number != b"%d" % place for place, number in enumerate(said, 1))
        return wrong + (self.count > len(said))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {DEADLINE:g} s")
        time.sleep(0.0005)


def switched(vm: Vm, to: Busy) -> float:
    """How long a switch takes, in milliseconds."""
    begin = time.perf_counter()
    vm.call("switch", name=to.name)
    return 1000 * (time.perf_counter() - begin)


def switches(vm: Vm, pair: list[Busy], times: int, wrong: dict[str, int]) -> list[float]:
    """Switch to and fro; adds to ``wrong`` what it sees."""
    took = []
    for number in range(times + WARM_UP):
        frozen, running = pair[number % 2], pair[1 - number % 2]
        spent = switched(vm, running)
        before = frozen.count
        running.goes_on()
        wrong["frozen ones that went on"] += frozen.count != before
        states = [each["state"] for each in vm.sessions()]
        wrong["times none was active"] += states.count("active") != 1
        if number >= WARM_UP:
            took.append(spent)
    return took


def rows(title: str, took: list[float]) -> list[dict[str, Any]]:
    ordered = sorted(took)
    values = {
        "p50": statistics.median(took),
        "p99": ordered[int(PERCENT * (len(ordered) - 1))],
        "longest": ordered[-1],
    }
    return [row(f"switch{title}, {name}", value, "ms") for name, value in values.items()]


def row(name: str, value: float, unit: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": None}


def empty(vm: Vm) -> list[float]:
    """How long switches take between sessions without processes."""
    pair: list[Session] = [vm.create("switch-c"), vm.create("switch-d")]
    took = []
    for number in range(SWITCHES // 5 + WARM_UP):
        begin = time.perf_counter()
        vm.call("switch", name=pair[number % 2].name)
        took.append(1000 * (time.perf_counter() - begin))
    for each in pair:
        each.remove()
    return took[WARM_UP:]


def main() -> None:
    with connect(HERE, DEADLINE) as vm:
        found = rows(", idle sessions", empty(vm))
        until(lambda: all(not each["name"].startswith("switch-") for each in vm.sessions()))
        pair = [Busy(vm, "switch-a"), Busy(vm, "switch-b")]
        for each in pair:
            vm.call("switch", name=each.name)
        wrong = dict.fromkeys(COUNTED, 0)
        found += rows("", switches(vm, pair, SWITCHES // 5, wrong))
        for each in pair:
            vm.call("switch", name=each.name)
            each.begin(COMPUTE, COMPUTING)
        before = [each.processes() for each in pair]
        found += rows(", computing", switches(vm, pair, SWITCHES, wrong))
        wrong["processes lost"] = sum(
            len(old - each.processes()) for old, each in zip(before, pair, strict=True)
        )
        for each in pair:
            vm.call("switch", name=each.name)
            wrong["numbers missing"] += each.missing()
            each.session.remove()
    print(json.dumps([*found, *(row(name, count) for name, count in wrong.items())]))


if __name__ == "__main__":
    main()
