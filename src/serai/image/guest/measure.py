"""Measures sessions inside a VM and prints one JSON array: `invoke bench` sends it there.

Run as ``python3 FILE GROUP …`` by root, on the standard library and the runtime alone. It judges
nothing: each measurement is a value and what it is to be compared with, both medians of runs that
took turns, so that whatever else the VM does hits both alike.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common import proc
from serai.common.errors import SeraiError
from serai.runtime.client import Client

ROUNDS = 40
ARCHIVE_ROUNDS = 15
FEW, MANY = 10, 100_000
ARCHIVED = 1000
POOL, POOL_BURST = 2, 100
SETTINGS = Path("/etc/serai/session.toml")
DEADLINE = 300.0
SOCKETS, SOCKETS_TITLE = "bench-sockets", ", sockets"
BURSTS = (20, 100, 200)
BURST_ROUNDS = 3
NUMBERS = itertools.count(1)


def milliseconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


class Bare:
    """bubblewrap with a session's own options, running true: what a session is compared with.

    A process of the session's user starts it and takes the time, so that nothing but bubblewrap is
    measured (posix_spawn(3) neither copies a process nor changes users).
    """

    def __init__(self, name: str, uid: int) -> None:
        machine = os.uname().machine
        self._argv = ["/usr/bin/bwrap", "--args", "4", "--seccomp", "3", "--", "/usr/bin/true"]
        self._files = [
            (os.POSIX_SPAWN_OPEN, 3, f"/usr/lib/serai/seccomp/{machine}/baseline.bpf", 0, 0),
            (os.POSIX_SPAWN_OPEN, 4, f"/run/serai/sessions/{name}/args", 0, 0),
        ]
        self._ask, theirs = os.pipe(), os.pipe()
        self._answer = theirs
        if os.fork() == 0:
            os.close(self._ask[1])
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            while os.read(self._ask[0], 1):
                os.write(theirs[1], f"{milliseconds(self._run)}\n".encode())
            os._exit(0)
        os.close(self._ask[0])

    def _run(self) -> None:
        pid = os.posix_spawn(self._argv[0], self._argv, {}, file_actions=self._files)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            os._exit(1)

    def take(self) -> float:
        """One run, in milliseconds."""
        os.write(self._ask[1], b"x")
        return float(os.read(self._answer[0], 100))

    def close(self) -> None:
        os.close(self._ask[1])


def row(name: str, values: list[float], baseline: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "value": statistics.median(values),
        "unit": "ms",
        "baseline": statistics.median(baseline),
    }


def settled(client: Client) -> None:
    """Wait until nothing is being removed any more."""
    end = time.monotonic() + DEADLINE
    while any(each["state"] == "removing" for each in client.call("list")["sessions"]):
        if time.monotonic() > end:
            raise SystemExit("sessions are not removed")
        time.sleep(0.005)


def created(client: Client, **chosen: str) -> float:
    """How long one create takes; the session is removed again."""
    made: dict[str, Any] = {}
    took = milliseconds(lambda: made.update(client.call("create", **chosen)))
    client.call("remove", name=made["name"])
    settled(client)
    return took


def command(name: str) -> None:
    argv = ["/usr/bin/serai", "exec", name, "--", "true"]
    _, status = os.waitpid(os.posix_spawn(argv[0], argv, dict(os.environ)), 0)
    if status != 0:
        raise SystemExit(f"serai exec ended with {status}")


def start(client: Client, bare: Bare) -> list[dict[str, Any]]:
    """Creating a session, and running true in one."""
    found: dict[str, list[float]] = {}
    client.call("create", name=SOCKETS, sandbox="sockets")

    def executed(name: str) -> float:
        return milliseconds(lambda: client.call("exec", name=name, argv=["true"], stdio="null"))

    actions: dict[str, Callable[[], float]] = {
        "bare": bare.take,
        "create": lambda: created(client),
        f"create{SOCKETS_TITLE}": lambda: created(client, sandbox="sockets"),
        "exec": lambda: executed("bench"),
        f"exec{SOCKETS_TITLE}": lambda: executed(SOCKETS),
        "exec, streamed": lambda: milliseconds(lambda: client.exec("bench", ["true"])),
        "serai exec": lambda: milliseconds(lambda: command("bench")),
    }
    for turn in range(ROUNDS + 3):
        for name, action in actions.items():
            took = action()
            if turn >= 3:  # noqa: PLR2004  # the first ones read files that are cached later
                found.setdefault(name, []).append(took)
    client.call("remove", name=SOCKETS)
    settled(client)
    baseline = found.pop("bare")
    return [row(name, values, baseline) for name, values in found.items()]


def archive(client: Client, _bare: Bare) -> list[dict[str, Any]]:
    """Archiving and reopening: a session of many files beside one of few."""
    for name, count in (("few", FEW), ("many", MANY)):
        client.call("create", name=name)
        loop = f"import os\nfor n in range({count}):\n"
        loop += (
            " d = f'd{n // 1000}'\n os.makedirs(d, exist_ok=True)\n open(f'{d}/{n}', 'w').close()"
        )
        done = client.exec(name, ["python3", "-c", loop])
        if done.status != 0:
            raise SystemExit(f"files are not made: {done.stderr.decode()}")
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(ARCHIVE_ROUNDS):
        for action in ("archive", "reopen"):
            for name in ("few", "many"):
                spent = milliseconds(lambda a=action, n=name: client.call(a, name=n))  # type: ignore[misc]
                took.setdefault((action, name), []).append(spent)
    for name in ("few", "many"):
        client.call("remove", name=name)
    settled(client)
    return [
        row(f"{action}, {MANY:,} files", took[action, "many"], took[action, "few"])
        for action in ("archive", "reopen")
    ]


def memory(client: Client, _bare: Bare) -> list[dict[str, Any]]:
    """What the one session that runs takes, with either sandbox."""
    strict = taken()
    client.call("stop", name="bench")
    client.call("create", name=SOCKETS, sandbox="sockets")
    sockets = taken()
    client.call("remove", name=SOCKETS)
    client.call("reopen", name="bench")
    both = {"idle memory": strict, f"idle memory{SOCKETS_TITLE}": sockets}
    return [
        {"name": name, "value": value, "unit": "MiB", "baseline": None}
        for name, value in both.items()
    ]


def taken() -> float:
    """PSS of all processes of all sessions, in MiB."""
    folders = [folder for folder, _, _ in os.walk("/sys/fs/cgroup/serai.slice")]
    pids = [pid for each in folders for pid in Path(each, "cgroup.procs").read_text().split()]
    return sum(map(proc.pss, pids)) / (1 << 20)


def many(client: Client, bare: Bare) -> list[dict[str, Any]]:
    """Creating a session before and after there are many archived ones.

    The two are minutes apart, so the first is scaled by what became of the bare bubblewrap.
    """

    def median() -> tuple[float, float]:
        pairs = [(created(client), bare.take()) for _ in range(ROUNDS)]
        return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)

    first, bare_first = median()
    left = [None] * ARCHIVED

    def fill() -> None:
        with Client() as own:
            while left:
                left.pop()
                own.call("archive", name=own.call("create")["name"])

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = [each["state"] for each in client.call("list")["sessions"]].count("archived")
    if count != ARCHIVED:
        raise SystemExit(f"{count} sessions are archived")
    last, bare_last = median()
    return [
        {
            "name": f"create, {ARCHIVED:,} archived",
            "value": last,
            "unit": "ms",
            "baseline": first * bare_last / bare_first,
        }
    ]


def burst(client: Client, bare: Bare) -> list[dict[str, Any]]:
    """Many clients at once, each of which connects, asks for a session and waits for its answer.

    One client alone and bare bubblewraps come before and after each burst: what they take is what
    the answers of a burst are compared with.
    """
    alone: list[float] = []
    bares: list[float] = []
    found: dict[int, list[list[float]]] = {count: [] for count in BURSTS}
    failed = dict.fromkeys(BURSTS, 0)

    def compare() -> None:
        for _ in range(4):
            bares.append(bare.take())
            alone.extend(at_once(client, 1))

    at_once(client, 1)
    compare()
    for _ in range(BURST_ROUNDS):
        for count in BURSTS:
            found[count].append(took := at_once(client, count))
            failed[count] += count - len(took)
            compare()
    rows = [row("create, a client of its own", alone, bares)]
    for count in BURSTS:
        counted = {"name": f"{count} creates at once, failed", "value": failed[count], "unit": ""}
        rows.append({**counted, "baseline": None})
        rows += bursts(count, [run for run in found[count] if run], alone, bares)
    return rows


def bursts(
    count: int, runs: list[list[float]], alone: list[float], bares: list[float]
) -> list[dict[str, Any]]:
    """What several bursts of ``count`` took, beside one client alone and beside a bubblewrap."""
    title = f"{count} creates at once"
    totals = [max(run) for run in runs] or [1000 * DEADLINE]
    each = [total / count for total in totals]
    plain = {
        f"{title}, each": (statistics.median(each), "ms"),
        f"{title}, a second": (1000 / statistics.median(each), ""),
    }
    return [
        *(
            {"name": name, "value": value, "unit": unit, "baseline": None}
            for name, (value, unit) in plain.items()
        ),
        row(f"{title}, each, bare bwraps", each, bares),
        row(f"{title}, first answer", [min(run) for run in runs] or totals, alone),
        row(f"{title}, median answer", [statistics.median(run) for run in runs] or totals, alone),
        row(f"{title}, last answer", totals, alone),
    ]


def at_once(client: Client, count: int, *, named: bool = True) -> list[float]:
    """When each answer came, in milliseconds from the start on, of sessions that a command runs in.

    Each is ``named``, unless it may be a session that was made before. All are removed again.
    """
    asks = [{"name": f"burst-{next(NUMBERS)}"} if named else {} for _ in range(count)]
    took: dict[str, float] = {}
    begin = time.perf_counter()
    with selectors.DefaultSelector() as waiting:
        for asked in asks:
            own = Client(timeout=DEADLINE)
            waiting.register(own, selectors.EVENT_READ, (own, own.ask("create", asked)))
        while waiting.get_map() and (ready := waiting.select(DEADLINE)):
            for key, _ in ready:
                own, number = key.data
                try:
                    made = own.wait(number)
                    took[made["name"]] = 1000 * (time.perf_counter() - begin)
                except SeraiError as error:
                    print(f"create: {error}", file=sys.stderr)
                waiting.unregister(own)
                own.close()
    for name in [*took]:
        try:
            if client.call("exec", name=name, argv=["true"], stdio="null")["status"] != 0:
                took.pop(name, None)
            client.call("remove", name=name)
        except SeraiError as error:
            print(f"{name}: {error}", file=sys.stderr)
            took.pop(name, None)
    settled(client)
    return sorted(took.values())


def pool(client: Client, bare: Bare) -> list[dict[str, Any]]:
    """Creating a session that waits in the pool, or with a name, which is made as without a pool.

    The pool is full before each, and nothing is removed just then: what goes on in the background
    after a create is not measured.
    """
    pool_size(POOL)
    found: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 3):
        asks: dict[str, dict[str, str]] = {"from the pool": {}, "with a name": {"name": "named"}}
        for title, asked in asks.items():
            filled(client)
            made: dict[str, Any] = {}
            create = milliseconds(lambda: made.update(client.call("create", **asked)))  # noqa: B023  # at once
            run = {"name": made["name"], "argv": ["true"], "stdio": "null"}
            execute = milliseconds(lambda: client.call("exec", **run))  # noqa: B023
            client.call("remove", name=made["name"])
            settled(client)
            if turn >= 3:  # noqa: PLR2004  # as in start
                found.setdefault(f"create, {title}", []).append(create)
                found.setdefault(f"create and exec, {title}", []).append(create + execute)
        found.setdefault("bare", []).append(bare.take())
    if client.call("pool")["taken"] != ROUNDS + 3:
        raise SystemExit("not all came from the pool")
    baseline = found.pop("bare")
    rows = [row(name, values, baseline) for name, values in found.items()]
    return rows + pool_burst(client)


def pool_size(size: int) -> None:
    head, _, rest = SETTINGS.read_text().partition("[pool]\n")
    SETTINGS.write_text(f"{head}[pool]\nsize = {size}\n{rest[rest.find('[') :]}")
    subprocess.run(["/usr/bin/systemctl", "reload", "serai-sessiond"], check=True)


def pool_burst(client: Client) -> list[dict[str, Any]]:
    """Many clients at once, out of a full pool and with names, where it can hold so many."""
    pool_size(POOL_BURST)
    if client.call("pool")["wanted"] < POOL_BURST:
        return []
    found: dict[str, list[list[float]]] = {"from the pool": [], "with names": []}
    for _ in range(BURST_ROUNDS):
        for title, named in (("from the pool", False), ("with names", True)):
            filled(client)
            found[title].append(at_once(client, POOL_BURST, named=named))
    if any(len(run) != POOL_BURST for runs in found.values() for run in runs):
        raise SystemExit("not all were made")
    return [
        {
            "name": f"{POOL_BURST} creates at once, {title}, {which} answer",
            "value": statistics.median(take(run) for run in runs),
            "unit": "ms",
            "baseline": None,
        }
        for title, runs in found.items()
        for which, take in (("first", min), ("median", statistics.median), ("last", max))
    ]


def filled(client: Client) -> None:
    """Wait until the pool is full."""
    end = time.monotonic() + DEADLINE
    while (found := client.call("pool"))["ready"] < found["wanted"] or found["making"]:
        if time.monotonic() > end:
            raise SystemExit(f"the pool does not fill: {found}")
        time.sleep(0.005)


GROUPS = {
    "memory": memory,
    "start": start,
    "archive": archive,
    "many": many,
    "burst": burst,
    "pool": pool,
}


def main() -> None:
    rows = []
    with Client(timeout=DEADLINE) as client:
        uid = client.call("create", name="bench")["uid"]
        bare = Bare("bench", uid)
        for name in sys.argv[1:] or GROUPS:
            rows += GROUPS[name](client, bare)
        bare.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
