"""Where is a session: by its claim, by its row with a wildcard, and all rows at once."""

from __future__ import annotations

import asyncio
import json
import time

from nats import errors
from nats.js import JetStreamContext

from serai.fleet.client import FleetClient
from serai.fleet.subjects import CLAIMS, SESSIONS
from serai.image.scale.cluster import Cluster, member
from serai.image.scale.speaker import closed, joined
from serai.image.scale.spent import Figures, costs, spent

ROWS = (1_000, 10_000, 100_000)
VMS = 10
STEP = 256
ROW = json.dumps(
    {
        "name": "brave-quiet-otter",
        "uid": 100123,
        "state": "active",
        "goal": None,
        "labels": {"team": "payments", "task": "issue-1234", "fleet.zone": "north"},
        "created_at": 1764500000.123,
        "changed_at": 1764500000.123,
    }
).encode()


async def lookups(cluster: Cluster, fleet: FleetClient) -> Figures:
    """Of ever more rows."""
    jetstream = fleet.connection.nats.jetstream(timeout=60)
    found: Figures = {}
    before, have = sum(each.memory() for each in cluster.found), 0
    files = cluster.found[0].disk()
    vms = await joined(cluster, VMS)
    for rows in ROWS:
        for number in range(have, rows):
            vm = vms[number % VMS]
            await vm.connection.publish(f"$KV.{SESSIONS}.{vm.name}.session-{number}", ROW)
            if number % STEP == 0:  # nobody says when it is too fast
                await _taken(jetstream, number - 8 * STEP)
        await _taken(jetstream, rows)
        have = rows
        if rows == ROWS[-1]:
            grown = sum(each.memory() for each in cluster.found) - before
            found["row kept: bytes of memory of all servers"] = grown / rows
            found["row kept: bytes on the disk of each server"] = (
                cluster.found[0].disk() - files
            ) / rows
        found |= await _one(cluster, fleet, rows)
        found |= await _all(cluster, fleet, rows)
    await closed(vms)
    return found


async def _taken(jetstream: JetStreamContext, least: int) -> None:
    """Wait until so many rows are kept."""
    while (await jetstream.stream_info(f"KV_{SESSIONS}")).state.messages < least:
        await asyncio.sleep(0.01)


async def _one(cluster: Cluster, fleet: FleetClient, rows: int) -> Figures:
    """How one session is found among so many rows, in three ways."""
    jetstream = fleet.connection.nats.jetstream(timeout=60)
    for number in range(10):
        await fleet.claim(CLAIMS, f"session-{number}", member(0), "scale")

    async def claim(turn: int) -> None:
        await fleet.claimed(CLAIMS, f"session-{turn % 10}")

    async def wildcard(turn: int) -> None:
        subject = f"$KV.{SESSIONS}.*.session-{turn * 7919 % rows}"
        await jetstream.get_last_msg(f"KV_{SESSIONS}", subject)

    async def consumer(turn: int) -> None:
        if len(await fleet.sessions(f"session-{turn * 7919 % rows}")) != 1:
            raise errors.Error("a row was not found")

    found: Figures = {}
    for what, work in (("claim", claim), ("wildcard", wildcard), ("consumer", consumer)):
        begun = time.monotonic()
        await work(1)
        count = max(20, min(2000, int(2 / (time.monotonic() - begun + 1e-4))))
        found |= await costs(cluster, f"lookup by {what}, {rows} rows", work, count, 8)
    return found


async def _all(cluster: Cluster, fleet: FleetClient, rows: int) -> Figures:
    """As a client's `list` reads them."""
    begun = time.process_time()
    with spent(cluster) as cost:
        count = len(await fleet.sessions())
    own = time.process_time() - begun
    if count != rows:
        raise errors.Error(f"a list had {count} of {rows} rows")
    return {
        f"list, {rows} rows: s": cost.seconds,
        f"list, {rows} rows: CPU of the client, s": own,
        f"list, {rows} rows: CPU of all servers, s": sum(cost.cpu),
        f"list, {rows} rows: MB on all wires": cost.wire / 1e6,
    }
