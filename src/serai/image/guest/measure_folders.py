"""Measures attached directories in a VM and prints one JSON array: `invoke bench` sends it there.

Run as ``python3 FILE`` by root, on the standard library and the runtime alone. One process in one
session goes to one folder in three ways, which take turns: as what it is, a folder of the session's
own home, by an idmapped mount of it, and by bindfs. They are the same files, so that how a file
lies in the page cache or on the disk makes no difference. What is read and written stays in the
cache, as a disk would hide what a mount costs. Each figure is the median of many, as the fastest
of them differs by a tenth between two runs. That process is this file too: ``python3 -
NAME=FOLDER …``.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIECE = 1 << 20
PIECES = 8
FILES = 10
TURNS = 500
ATTACHES = 30
FOLDER = "tmp/shared"  # of the session
ATTACHED = Path("/mnt/shared")
LANES = {"native": FOLDER, "idmapped": "mnt/outputs", "bindfs": "mnt/.claude"}
KINDS = {"idmapped": ("outputs", "idmap"), "bindfs": ("config", "bindfs")}
TOLD = {"write": "8 MiB written", "read": "8 MiB read", "files": f"{FILES} small files"}


def milliseconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


# --- inside


def write(folder: str, piece: bytearray) -> None:
    """Over what is there: a file system's search for free blocks is not what is measured."""
    descriptor = os.open(f"{folder}/large", os.O_WRONLY | os.O_CREAT, 0o600)
    for _ in range(PIECES):
        os.write(descriptor, piece)
    os.close(descriptor)


def read(folder: str, piece: bytearray) -> None:
    descriptor = os.open(f"{folder}/large", os.O_RDONLY)
    got = 0
    while count := os.readv(descriptor, [piece]):
        got += count
    os.close(descriptor)
    if got != PIECE * PIECES:
        raise SystemExit(f"{folder} gives {got} bytes")


def files(folder: str, _piece: bytearray) -> None:
    """Make, find, read and remove small files."""
    for number in range(FILES):
        path = f"{folder}/small{number}"
        with open(path, "wb", 0) as file:  # noqa: PTH123  # no time for a Path
            file.write(b"x")
        os.stat(path)  # noqa: PTH116
    for number in range(FILES):
        path = f"{folder}/small{number}"
        with open(path, "rb", 0) as file:  # noqa: PTH123
            file.read()
        os.unlink(path)  # noqa: PTH108


ASKED = {"write": write, "read": read, "files": files}


def work(folders: dict[str, str]) -> dict[str, dict[str, float]]:
    """The median of milliseconds, by what is asked and by folder."""
    piece = bytearray(PIECE)
    took: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in folders} for what in ASKED
    }
    # Each folder comes after each other one as often.
    orders = itertools.cycle(itertools.permutations(folders))
    for _, names in zip(range(TURNS), orders):  # noqa: B905  # not strict: Python 3.10
        for what, action in ASKED.items():
            for name in names:
                spent = milliseconds(lambda a=action, n=name: a(folders[n], piece))  # type: ignore[misc]
                took[what][name].append(spent)
    return {
        what: {name: statistics.median(values) for name, values in lanes.items()}
        for what, lanes in took.items()
    }


# --- outside


def prepare(uid: int) -> None:
    """Let the session's folder be one that can be attached to it."""
    device = Path("/dev/fuse")
    if not device.exists():  # a container has none by itself
        os.mknod(device, 0o20666, os.makedev(10, 229))
    folder = Path("/sessions/bench", FOLDER)
    for each in (folder, ATTACHED):
        each.mkdir(parents=True, exist_ok=True)
    os.chown(folder, uid, uid)
    subprocess.run(["/usr/bin/mount", "--bind", folder, ATTACHED], check=True)


def attaching(client: Any) -> list[dict[str, Any]]:
    """How long it takes to attach a folder to a session that runs; they stay attached."""
    took: dict[str, list[float]] = {name: [] for name in KINDS}
    for turn in range(ATTACHES + 1):
        for name, (role, kind) in KINDS.items():
            keys = {"name": "bench", "role": role, "path": str(ATTACHED), "kind": kind}
            took[name].append(milliseconds(lambda k=keys: client.call("attach", **k)))  # type: ignore[misc]
            if turn < ATTACHES:
                client.call("detach", name="bench", role=role)
    return [
        {
            "name": f"attach, {name}",
            "value": statistics.median(values[1:]),
            "unit": "ms",
            "baseline": None,
        }
        for name, values in took.items()
    ]


def main() -> None:
    sys.path.insert(0, "/usr/lib/serai/python")
    from serai.runtime.client import Client  # noqa: PLC0415  # not for what runs in a session

    with Client(timeout=600.0) as client:
        prepare(client.call("create", name="bench")["uid"])
        rows = attaching(client)
        argv = ["python3", "-", *(f"{name}={folder}" for name, folder in LANES.items())]
        done = client.exec("bench", argv, input=Path(__file__).read_bytes())
        if done.status != 0:
            raise SystemExit(f"the directories cannot be measured: {done.stderr.decode()}")
        for what, lanes in json.loads(done.stdout).items():
            for name in KINDS:
                row = {"name": f"{TOLD[what]}, {name}", "value": lanes[name], "unit": "ms"}
                rows.append({**row, "baseline": lanes["native"]})
    print(json.dumps(rows))


if __name__ == "__main__":
    if len(sys.argv) > 2:  # noqa: PLR2004
        print(json.dumps(work(dict(pair.split("=", 1) for pair in sys.argv[1:]))))
    else:
        main()
