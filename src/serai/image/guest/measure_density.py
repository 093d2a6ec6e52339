"""Measures how many live idle sessions a VM holds, and what each more costs; prints one JSON array.

Run as ``python3 FILE GROUP [NUMBER]`` by root, on the standard library and the runtime alone:
`invoke bench` sends it there. It makes sessions until there are so many, or until that fails. At
some numbers on the way it measures. What it compares with was measured with one session; in
between, the VM may have become slower, so that is scaled by what became of a process outside
of sessions. It judges nothing. Progress goes to stderr.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common import proc
from serai.common.errors import SeraiError
from serai.runtime.client import Client

NUMBER = 500
PARTS = (0.2, 0.5, 1.0)  # of the number, where it measures
MISSING = "live sessions missing"
ROUNDS, FEW = 60, 10
DEADLINE = 600.0
COMMANDS = {"serai list": ("serai", "list"), "serai list --json": ("serai", "list", "--json")}
PROCESSES = {"sessiond": "serai-sessiond", "the gate": "serai-gate", "systemd": ""}

Row = dict[str, Any]


def row(name: str, value: float, unit: str, baseline: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline}


def milliseconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


def ran(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class Crowd:
    """The sessions that were made, and how much memory there was before them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.names: list[str] = []
        self.creates: list[float] = []
        self.before = available()

    def fill(self, number: int) -> str:
        """Make sessions until there are so many; otherwise says why there are not."""
        while len(self.names) < number:
            try:
                begin = time.perf_counter()
                # By a name each is made when it is asked for, not taken from a pool.
                name = f"density-{len(self.names)}"
                self.names.append(self.client.call("create", name=name)["name"])
                self.creates.append(1000 * (time.perf_counter() - begin))
            except SeraiError as error:
                return str(error)
        return ""

    def executed(self) -> None:
        """Run a command in one of them."""
        name = random.choice(self.names)  # noqa: S311  # no secret
        done = self.client.call("exec", name=name, argv=["true"], stdio="null")
        if done["status"]:
            raise SystemExit(f"true ended with {done['status']} in {name}")

    def times(self) -> dict[str, float]:
        """Medians, in milliseconds."""
        actions: dict[str, Callable[[], Any]] = {
            "outside": lambda: ran(["/usr/bin/true"]),
            "serai --version": lambda: ran(["serai", "--version"]),
            **{name: lambda argv=argv: ran(argv) for name, argv in COMMANDS.items()},  # type: ignore[misc]
            "exec": self.executed,
        }
        took: dict[str, list[float]] = {name: [] for name in actions}
        for turn in range(ROUNDS):
            for name, action in actions.items():
                if turn < FEW or name in ("outside", "exec"):
                    took[name].append(milliseconds(action))
        found = {name: statistics.median(each) for name, each in took.items()}
        return {**found, "create": statistics.median(self.creates[-FEW:])}

    def memory(self) -> list[Row]:
        """What a session takes, and what serves it."""
        live, end = len(self.names), f", {len(self.names)} live"
        units = list(SLICE.glob("serai-session@*"))  # with those of a pool
        pids = [pid for each in units for folder, _, _ in os.walk(each) for pid in members(folder)]
        pss = sum(map(proc.pss, pids)) / (1 << 20)
        whole = (self.before - available()) / 1024
        rows = [row(f"memory of a session (PSS){end}", pss / len(units), "MiB")]
        if live > 1:
            rows.append(row(f"memory that each took of the VM's{end}", whole / live, "MiB"))
        for name, unit in PROCESSES.items():
            show = ["systemctl", "show", "-P", "MainPID", f"{unit}.service"]
            pid = subprocess.check_output(show, text=True).strip() if unit else "1"
            rows.append(row(f"{name} (PSS){end}", proc.pss(pid) / (1 << 20), "MiB"))
        return rows


SLICE = Path("/sys/fs/cgroup/serai.slice")


def members(cgroup: str) -> list[str]:
    return Path(cgroup, "cgroup.procs").read_text().split()


def available() -> int:
    """KiB that the VM has left, without what it can read again."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def compared(first: dict[str, float], now: dict[str, float], live: int) -> list[Row]:
    """The times beside those with one session, and commands beside one that asks nothing."""
    slower = now["outside"] / first["outside"]
    rows = [row(f"process outside, {live} live", now["outside"], "ms", first["outside"])]
    for name in ("create", "exec"):
        rows.append(row(f"{name}, {live} live", now[name], "ms", first[name] * slower))
    for name in COMMANDS:
        rows.append(row(f"{name}, {live} live", now[name], "ms", now["serai --version"]))
    return rows


def density(client: Client, number: int) -> list[Row]:
    crowd = Crowd(client)
    if why := crowd.fill(1):
        raise SystemExit(why)
    rows, first = crowd.memory(), crowd.times()
    for live in (int(number * part) for part in PARTS):
        if not (why := crowd.fill(live)):
            now = crowd.times()
            rows += compared({**first, "create": statistics.median(crowd.creates[:FEW])}, now, live)
        rows += crowd.memory()
        print(f"{len(crowd.names)} live {why}", file=sys.stderr, flush=True)
        if why:
            break
    return [*rows, row(MISSING, number - answers(crowd), "")]


def answers(crowd: Crowd) -> int:
    """In how many of them a command runs now."""
    count = 0
    for name in crowd.names:
        try:
            done = crowd.client.call("exec", name=name, argv=["true"], stdio="null")
            count += done["status"] == 0
        except SeraiError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return count


def main() -> None:
    number = int(sys.argv[2]) if sys.argv[2:] else NUMBER
    with Client(timeout=DEADLINE) as client:
        print(json.dumps(density(client, number)))


if __name__ == "__main__":
    main()
