"""What the servers of a large fleet carry: computed from what a small one was measured to cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serai.fleet.subjects import BEAT, KEPT_REQUESTS

SESSIONS = 100
"""On a VM."""
LIFETIME = 3600.0
"""Of a session, in seconds."""
CHANGES = 6
"""Rows that are put for a session while it lives."""
TOLD_AGAIN = 3600.0
"""Seconds after which a VM puts all its rows once more."""
BETWEEN = 60.0
"""Seconds between two commands in a session."""
LOOKUPS = 2
"""Of a session, by clients that keep their connections: they remember where it is."""
MESSAGES = 3
"""To a VM and back, for a command."""
MEASURED_ROWS = 100_000

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Load:
    """One line of the table."""

    what: str
    each_second: float
    processors: float
    """Of all servers together."""
    megabits: float
    """On all wires together."""


def loads(figures: Figures, vms: int) -> list[Load]:
    """What so many VMs do in a second, and what that takes."""
    sessions = vms * SESSIONS
    made = sessions / LIFETIME
    rates = {
        "heartbeat": vms / BEAT,
        "row of a session": made * CHANGES + sessions / TOLD_AGAIN,
        "three offers": made,
        "claim": 2 * made,
        f"lookup by claim, {MEASURED_ROWS} rows": LOOKUPS * made,
        "message to a VM, and its answer": MESSAGES * sessions / BETWEEN,
    }
    found = [
        Load(
            what.partition(",")[0] if what.startswith("lookup") else what,
            rate,
            rate * figures[f"{what}: CPU of all servers, µs"] / 1e6,
            rate * figures[f"{what}: bytes on all wires"] * 8 / 1e6,
        )
        for what, rate in rates.items()
    ]
    idle = vms * figures["VM connected: CPU of all servers, µs a second"] / 1e6
    wire = vms * figures["VM connected: bytes a second on all wires"] * 8 / 1e6
    return [*found, Load("VM connected", vms, idle, wire)]


def sizes(figures: Figures, vms: int) -> Iterator[tuple[str, float]]:
    """What so many VMs need, each with its unit; lines that grow with the number of rows."""
    rows = vms * SESSIONS
    parts = rows / MEASURED_ROWS
    total = loads(figures, vms)
    yield "processors of all servers", sum(each.processors for each in total)
    yield "Mbit/s on all wires", sum(each.megabits for each in total)
    connected = figures["VM connected, of 1000: KiB of all servers"] * 1024 * vms
    each = figures[f"lookup by wildcard, {MEASURED_ROWS} rows: CPU of all servers, µs"] * parts
    yield "processors more to look for names of new sessions", rows / LIFETIME * each / 1e6
    yield "GB of memory for connections", connected / 1e9
    yield "GB of memory for rows", figures["row kept: bytes of memory of all servers"] * rows / 1e9
    reload = figures["reload, 10000 VMs: CPU of the server, s"]
    kept_requests = rows / LIFETIME * KEPT_REQUESTS
    yield "millions of requests that are kept", kept_requests / 1e6
    each = figures["row kept: bytes of memory of all servers"]  # a request is no smaller than a row
    yield "GB of memory for requests", each * kept_requests / 1e9
    yield "s of processor to reload the users", reload * vms / 10_000
    listed = f"list, {MEASURED_ROWS} rows"
    yield (
        "s of a client for `serai list` of all",
        figures[f"{listed}: CPU of the client, s"] * parts,
    )
    yield "MB for it on all wires", figures[f"{listed}: MB on all wires"] * parts
    scanned = f"lookup by consumer, {MEASURED_ROWS} rows: CPU of all servers, µs"
    yield "ms of processor to find a name without a claim", figures[scanned] * parts / 1e3
