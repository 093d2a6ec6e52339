"""A hundred clients and a thousand jobs, while sessiond is killed again and again.

`invoke bench --only storm` sends it into a container, or with `--image` into a booted image, and
gets one JSON array. Run as ``python3 FILE`` by root, on the standard library and the runtime alone.
Each row counts what went wrong: jobs that were made twice, or not, logs that are not whole,
statuses that are wrong or that two answers tell in two ways.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common.errors import GONE, SeraiError
from serai.runtime.client import FOLLOW
from serai.runtime.library import Job, Session, connect

HERE = "unix:///run/serai/control.sock"
SESSIONS, CLIENTS, EACH, KILLS = 10, 100, 10, 20
LINES, ROUNDS = 20, 40
DEADLINE = 600.0
PAUSE = 0.05
T = TypeVar("T")

# It waits without a process of its own: a thousand times sleep(1) would be most of the work.
WORK = """
exec 3<> <(:)
for ((round = 0; round < %d; round++)); do
    for ((line = 0; line < %d; line++)); do echo "$1 $round $line"; done
    read -rt 1 -u 3
done
exit "$2"
"""


@dataclass
class Found:
    """What a client has seen of one job."""

    job: str = ""
    whole: bool = False
    statuses: tuple[Any, ...] = ()
    wanted: int = 0
    failure: str = ""


def row(name: str, value: float, unit: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": None}


def again(call: Callable[[], T]) -> T:
    """``call``, made once more whenever sessiond was killed meanwhile."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return call()
        except SeraiError as error:
            if error.code != GONE or time.monotonic() > end:
                raise
            time.sleep(PAUSE)


def client(number: int, session: str) -> list[Found]:
    """Start this client's jobs, follow each to its end, and ask twice how it ended."""
    found = [Found(wanted=(number + each) % 100) for each in range(EACH)]
    with again(lambda: connect(HERE, FOLLOW + DEADLINE)) as vm:
        jobs = []
        for each, one in enumerate(found):
            tag = f"{number}-{each}"
            argv = ["bash", "-c", WORK % (ROUNDS, LINES), "work", tag, str(one.wanted)]
            start = partial(Session(vm, session).start, argv, request_id=tag)
            jobs.append((tag, again(start)))
        for one, (tag, job) in zip(found, jobs, strict=True):
            one.job = job.id
            lines = "".join(f"{tag} {a} {b}\n" for a in range(ROUNDS) for b in range(LINES))
            try:
                one.whole = followed(job) == lines.encode()
                one.statuses = tuple(again(job.wait)["status"] for _ in range(2))
            except SeraiError as error:
                one.failure = str(error)
    return found


def followed(job: Job) -> bytes:
    """All that it writes; after a hang-up from the byte on that is missing."""
    got = b""

    def rest() -> None:
        nonlocal got
        for data in job.output(len(got), follow=True):
            got += data

    again(rest)
    return got


def killing(over: threading.Event, killed: list[float]) -> None:
    """Kill sessiond whenever it has answered, at a moment that nobody knows."""
    for _ in range(KILLS):
        if over.wait(random.uniform(0.0, 1.0)):  # noqa: S311  # not a secret
            return
        argv = [
            "/usr/bin/systemctl",
            "kill",
            "--kill-whom=main",
            "--signal=KILL",
            "serai-sessiond.service",
        ]
        subprocess.run(argv, check=True)
        begin = time.monotonic()
        again(answers)
        killed.append(time.monotonic() - begin)


def answers() -> None:
    with connect(HERE, DEADLINE) as vm:
        vm.call("version")


def main() -> None:
    with connect(HERE, DEADLINE) as vm:
        names = [vm.create().name for _ in range(SESSIONS)]
    over, killed = threading.Event(), list[float]()
    killer = threading.Thread(target=killing, args=(over, killed))
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            pool.submit(client, number, names[number % SESSIONS]) for number in range(CLIENTS)
        ]
        killer.start()
        found = [each for done in clients for each in done.result()]
    over.set()
    killer.join()
    with connect(HERE, DEADLINE) as vm:
        listed = [job["job"] for name in names for job in vm.call("job.list", name=name)["jobs"]]
        for name in names:
            vm.call("remove", name=name)
    for each in found:
        if each.failure:
            print(f"{each.job}: {each.failure}", file=sys.stderr)
    strange = len({each.job for each in found} ^ set(listed))
    rows = [
        row("sessiond killed", len(killed)),
        row("answers again after a kill, longest", 1000 * max(killed, default=0.0), "ms"),
        row("jobs", len(listed)),
        row("jobs made twice or not at all", strange + abs(len(listed) - CLIENTS * EACH)),
        row("logs that are not whole", sum(not each.whole for each in found)),
        row(
            "statuses that are wrong",
            sum(each.statuses != (each.wanted,) * 2 for each in found),
        ),
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
