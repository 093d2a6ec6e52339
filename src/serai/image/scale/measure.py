"""Measures what a fleet's NATS servers pay for each thing that a fleet does. Runs as a program.

It wants a network of its own: the bytes are those of its loopback, with TLS and TCP. What speaks
is the fleet's own code where that is the same for one VM as for many.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from serai.fleet import command, subjects
from serai.fleet.client import FleetClient
from serai.image.scale.cluster import CLIENT, SERVERS, Cluster, cluster, member
from serai.image.scale.measure_rows import ROW, lookups
from serai.image.scale.speaker import ALIVE, Speaker, closed, joined
from serai.image.scale.spent import Figures, costs, spent

VMS = 1000
PUTS = 8000
WRITERS = 90
CONNECTIONS = (100, 500, VMS)
DEATHS = 6
USERS = (1_000, 10_000)
FRAME, FRAMES, LINKS = bytes(32 << 10), 4000, 4000
IDLE = 20.0


async def puts(of: Cluster, fleet: FleetClient) -> Figures:
    """Heartbeats, rows of sessions and claims."""
    vms = await joined(of, WRITERS)

    def vm(number: int) -> Speaker:
        return vms[number % WRITERS]

    async def alive(number: int) -> None:
        async with vm(number).beating:
            await vm(number).put(f"{subjects.ALIVE}.{vm(number).name}", ALIVE)

    async def row(number: int) -> None:
        key = f"{subjects.SESSIONS}.{vm(number).name}.session-{number}"
        await vm(number).put(key, ROW)

    begun = time.time_ns()

    async def claim(number: int) -> None:
        key = f"{begun}-{number}-{time.monotonic_ns()}"
        await fleet.claim(subjects.REQUESTS, key, "vm-1", "scale")

    found = await costs(of, "heartbeat", alive, PUTS)
    found |= await costs(of, "row of a session", row, PUTS)
    found |= await costs(of, "claim", claim, PUTS)
    with spent(of) as cost:  # nobody keeps these, and each comes in a packet of its own
        for _ in range(PUTS // WRITERS):
            for each in vms:
                await each.connection.publish(f"serai.up.{each.name}.alive", ALIVE)
            await asyncio.sleep(0.01)
    found |= cost.each("heartbeat that is not kept", PUTS // WRITERS * WRITERS)
    await closed(vms)
    return found


async def offers(of: Cluster, fleet: FleetClient) -> Figures:
    """Three offers of 90 VMs, as a create asks for."""
    vms = await joined(of, WRITERS)

    async def ask(_number: int) -> None:
        if len(await fleet.offers("", "", "")) != subjects.OFFERS:
            raise RuntimeError("not as many VMs as were asked made an offer")

    async def say(number: int) -> None:
        subject = f"serai.down.{member(number % WRITERS)}.ask"
        if await fleet.connection.request(subject, ALIVE, 10) is None:
            raise RuntimeError("a VM did not answer")

    found = await costs(of, "three offers", ask, PUTS // 2)
    found |= await costs(of, "message to a VM, and its answer", say, PUTS // 2)
    await closed(vms)
    return found


async def connections(of: Cluster, _fleet: FleetClient) -> Figures:
    """VMs that are connected and do nothing."""
    found: Figures = {}
    vms: list[Speaker] = []
    before = sum(each.memory() for each in of.found)
    for many in CONNECTIONS:
        more = many - len(vms)
        with spent(of) as cost:
            vms += await joined(of, more, len(vms))
        found |= cost.each(f"connect, of {many}", more)
    grown = sum(each.memory() for each in of.found) - before
    found[f"VM connected, of {VMS}: KiB of all servers"] = grown / 1024 / VMS
    with spent(of) as cost:
        await asyncio.sleep(IDLE)
    found["VM connected: CPU of all servers, µs a second"] = (
        1e6 * sum(cost.cpu) / cost.seconds / VMS
    )
    found["VM connected: bytes a second on all wires"] = cost.wire / cost.seconds / VMS
    await closed(vms)
    return found


async def links(of: Cluster, fleet: FleetClient) -> Figures:
    """Frames from a client at one server to a VM at another, and what each link costs."""
    nats, sent = fleet.connection.nats, 0
    vms = await joined(of, 20)
    vm = next(each for each in vms if each.server() != str(nats.connected_url))
    subject = f"serai.down.{vm.name}.link.0123456789abcdef0123456789abcdef.1"
    with spent(of) as cost:
        for _ in range(FRAMES):
            await nats.publish(subject, FRAME)
            sent += len(FRAME)
            while sent - vm.heard > 8 * len(FRAME):  # a link's window
                await asyncio.sleep(0)
        while vm.heard < sent:
            await asyncio.sleep(0.005)
    mebibytes = sent / (1 << 20)
    found = {
        "MiB through a link: CPU of all servers, µs": 1e6 * sum(cost.cpu) / mebibytes,
        "MiB through a link: CPU of the busiest server, µs": 1e6 * max(cost.cpu) / mebibytes,
        "MiB through a link: bytes on all wires": cost.wire / mebibytes,
    }
    before = sum(each.memory() for each in of.found)
    with spent(of) as cost:
        for number in range(LINKS):
            await nats.subscribe(f"serai.up.vm-{number % 50}.link.{number:032x}.*")
        await nats.flush(60)
        await asyncio.sleep(1)
    found |= cost.each("client subscribes", LINKS)
    grown = sum(each.memory() for each in of.found) - before
    found["client subscribes: KiB of all servers"] = grown / 1024 / LINKS
    await closed(vms)
    return found


async def reloads(of: Cluster, _fleet: FleetClient) -> Figures:
    """A file with so many users."""
    found: Figures = {}
    server = of.found[0]
    for many in USERS:
        size = of.configure(server, many)
        before, loaded = server.memory(), server.asked("varz")["config_load_time"]
        with spent(of) as cost:
            os.kill(server.pid, signal.SIGHUP)
            while server.asked("varz")["config_load_time"] == loaded:
                await asyncio.sleep(0.01)
        found[f"reload, {many} VMs: s"] = cost.seconds
        found[f"reload, {many} VMs: CPU of the server, s"] = cost.cpu[0]
        found[f"reload, {many} VMs: MiB that it grew by"] = (server.memory() - before) / 2**20
        found[f"reload, {many} VMs: kB of the file"] = size / 1000
    return found


async def deaths(of: Cluster, fleet: FleetClient) -> Figures:
    """The server that leads a bucket is killed: when is a heartbeat taken again?"""
    (vm,) = await joined(of, 1)
    key = f"{subjects.ALIVE}.{vm.name}"
    without, returns = [], []
    for _ in range(DEATHS):
        await vm.put(key, ALIVE)
        info = await fleet.connection.nats.jetstream(timeout=30).stream_info(f"KV_{subjects.ALIVE}")
        leader = str(info.cluster and info.cluster.leader)
        begun = time.monotonic()
        of.kill(leader)
        await _kept_again(vm, key)
        without.append(time.monotonic() - begun)
        begun = time.monotonic()
        of.restart(leader)
        of.wait()
        while not await _current(fleet):
            await asyncio.sleep(0.1)
        returns.append(time.monotonic() - begun)
    await closed([vm])
    return {
        "death of a leader: s without heartbeats, median": statistics.median(without),
        "death of a leader: s without heartbeats, longest": max(without),
        "return of a server: s until it has all": statistics.median(returns),
    }


async def _kept_again(vm: Speaker, key: str) -> None:
    while True:
        try:
            await asyncio.wait_for(vm.put(key, ALIVE), 0.2)
            return
        except asyncio.TimeoutError:
            continue


async def _current(fleet: FleetClient) -> bool:
    """Whether all three have all of the bucket."""
    info = await fleet.connection.nats.jetstream(timeout=30).stream_info(f"KV_{subjects.ALIVE}")
    replicas = (info.cluster and info.cluster.replicas) or []
    return len(replicas) == SERVERS - 1 and all(each.current for each in replicas)


Measurement = Callable[[Cluster, FleetClient], Awaitable[Figures]]
GROUPS: dict[str, Measurement] = {
    "connections": connections,
    "deaths": deaths,
    "links": links,
    "lookups": lookups,
    "offers": offers,
    "puts": puts,
    "reloads": reloads,
}


async def measured(group: str, folder: Path) -> Figures:
    """The figures of one group, on servers of its own."""
    with cluster(folder, VMS if group == "connections" else 100) as made:
        async with FleetClient(made.addresses, folder / "clients" / CLIENT) as fleet:
            await command.init(fleet, SERVERS)
            return await GROUPS[group](made, fleet)


def main(arguments: list[str]) -> int:
    """Measure the named groups; print their figures as JSON."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    found: Figures = {}
    for group in arguments:
        with tempfile.TemporaryDirectory(prefix="serai-scale.") as folder:
            found |= asyncio.run(measured(group, Path(folder)))
    print(json.dumps({name: float(f"{value:.4g}") for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
