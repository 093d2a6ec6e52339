"""What the way through NATS costs: a server, a member and a client here, sessiond in the container.

Each row is a median beside the same over the control socket itself, which took turns with it. Both
are asked from outside the container, so that nothing else differs.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from serai.common import jsonrpc, proc
from serai.fleet.client import FleetClient
from serai.fleet.settings import credentials
from serai.image.fleet import keys, loopback
from serai.image.fleet.rig import init, wait
from serai.image.run import with_pdeathsig
from serai.runtime import address
from serai.runtime.library import Session, connect

ROUNDS, LARGE_ROUNDS, MADE = 100, 5, 20
SIZE = 64 << 20
LINKS = 200
DEADLINE = 60.0
VM, CLIENT = "a", "bench"
OUTPUT = ["head", "-c", str(SIZE), "/dev/zero"]


def measured(root: Path, work: Path) -> list[dict[str, Any]]:
    """The rows, with sessiond below ``root``. Raises BuildError."""
    with joined(root, work / "fleet") as (place, pid), ExitStack() as stack:
        near = stack.enter_context(connect(f"unix://{root}/run/serai/control.sock"))
        far = stack.enter_context(connect(place))
        session = far.create()
        rows = list(_commands(near.session(session.name), session))
        rows += _creates(near.create, far.create)
        rows.append(asyncio.run(_many(place, pid)))
    return rows


def row(name: str, value: float, unit: str = "ms", baseline: float | None = None) -> dict[str, Any]:
    """One measurement."""
    return {"name": name, "value": value, "unit": unit, "baseline": baseline}


async def _many(place: str, pid: int) -> dict[str, Any]:
    """What the member holds with many links, over each of which something went."""
    async with FleetClient(address.parse(place).nats, credentials(), "bench") as client:
        links = await asyncio.gather(*(client.link(VM) for _ in range(LINKS)))
        for link in links:
            await link.write(jsonrpc.call(1, "version", {}))
            await link.read()
        return row(f"member, {LINKS} links", proc.pss(pid) / (1 << 20), "MiB")


def _commands(near: Session, far: Session) -> Iterator[dict[str, Any]]:
    for name, argv, rounds in (("exec", ["true"], ROUNDS), ("output", OUTPUT, LARGE_ROUNDS)):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for found, session in zip(times, (near, far), strict=True):
                found.append(_milliseconds(lambda: session.run(argv, timeout=DEADLINE)))  # noqa: B023
        title = f"{SIZE >> 20} MiB of output" if name == "output" else name
        here, there = map(statistics.median, times)
        yield row(f"{title}, by a fleet", there, "ms", here)


def _creates(near: Callable[[], Session], far: Callable[[], Session]) -> list[dict[str, Any]]:
    here: list[float] = []
    there: list[float] = []
    for _ in range(MADE):
        for times, create in ((here, near), (there, far)):
            made: list[Session] = []
            times.append(_milliseconds(lambda: made.append(create())))  # noqa: B023
            made[0].remove()
    return [row("create, by a fleet", statistics.median(there), "ms", statistics.median(here))]


@contextmanager
def joined(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """The address of a fleet of this VM alone, and its member's PID."""
    (port,) = loopback.unused(1)
    server = loopback.server(folder, port)
    keys.make(folder, added=[server], vms=[VM], clients=[CLIENT])
    (root / "etc/serai/fleet.toml").write_text(
        f'name = "{VM}"\nservers = ["127.0.0.1:{server.port}"]\n'
    )
    own = root / "etc/serai/fleet"
    own.mkdir(exist_ok=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (own / name).write_bytes((folder / "vms" / VM / name).read_bytes())
    os.environ["SERAI_FLEET"] = str(folder / "clients" / CLIENT)
    place = f"nats://127.0.0.1:{server.port}"
    with ExitStack() as stack:
        log = stack.enter_context((folder / "member.log").open("wb"))
        started = loopback.start(server, folder / "server.log")
        member = subprocess.Popen(with_pdeathsig([*_MEMBER, root]), stdout=log, stderr=log)
        for process in (started, member):
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait(lambda: init(place, credentials(), 1), "the server answers", DEADLINE)
        wait(lambda: _takes(place), "the VM takes sessions", DEADLINE)
        yield place, member.pid


_MEMBER: tuple[str | Path, ...] = (sys.executable, "-m", "serai.fleet.member")


def _takes(place: str) -> bool:
    with connect(place) as fleet:
        fleet.create().remove()
    return True


def _milliseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)
