"""``serai fleet``: what VMs there are, and what to do with one. ``serai`` runs it as a program."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import partial
from typing import Any

from nats import errors
from nats.js import JetStreamContext, api

from serai.common import stdio
from serai.common.errors import GONE, INVALID_PARAMS, WRONG_STATE, SeraiError
from serai.common.printing import say
from serai.fleet import doubles, placing, settings, subjects
from serai.fleet.client import FleetClient, number, short
from serai.runtime import address
from serai.runtime.cli.showing import table
from serai.runtime.library import Session, connect

LIVES = {subjects.ALIVE: subjects.DEAD, subjects.REQUESTS: subjects.KEPT_REQUESTS}
"""Seconds after which a bucket forgets."""

MOST_BYTES = {subjects.SESSIONS: 1 << 30, subjects.VMS: 64 << 20, subjects.ALIVE: 64 << 20}
"""Of the buckets that VMs write: so none of them takes the claims' room, without which nothing is
made. The servers lay it aside."""


MOST_ADDRESSES = 8
"""From which a key that two use is said to be used."""


def parser() -> argparse.ArgumentParser:
    """What the command line may look like."""
    top = argparse.ArgumentParser(prog="serai fleet", description="The VMs of a fleet.")
    top.add_argument("--vm", default="", help=argparse.SUPPRESS)
    top.add_argument("--json", action="store_true", help="print the result as JSON")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("drain", "let no new session into a VM"),
        ("undrain", "let new sessions into a VM again"),
        ("forget", "remove what the fleet knows of a VM that is no more"),
    ):
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.add_argument("name", metavar="VM")
        made.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        if name == "drain":
            also = "also move each of its sessions to another VM, one after another"
            made.add_argument("--move", action="store_true", help=also)
            also = "let them use secrets of these VMs, as their policies and profiles say"
            made.add_argument("--bindings", action="store_true", help=also)
    text = "make what the servers keep of a fleet, or change how many of them do"
    init = commands.add_parser("init", help=text, description=text[0].upper() + text[1:] + ".")
    # No default: who forgot it with three servers would lose all with one of them.
    text = "how many servers keep it: 3 or 5, and 1 if there is no other"
    init.add_argument(
        "--replicas", type=int, choices=(1, 3, 5), required=True, metavar="N", help=text
    )
    return top


async def init(client: FleetClient, replicas: int) -> None:
    """Make the buckets, or keep them on so many servers. Raises SeraiError."""
    for bucket in subjects.BUCKETS:
        await client.patiently(partial(_make, client.jetstream, bucket, replicas))


async def _make(jetstream: JetStreamContext, bucket: str, replicas: int) -> None:
    config = configuration(bucket, replicas)
    try:
        await jetstream.add_stream(config)
    except errors.Error as error:
        if getattr(error, "err_code", 0) != STREAM_EXISTS:
            raise
        there = await jetstream.stream_info(f"KV_{bucket}")
        await jetstream.update_stream(config, storage=there.config.storage)


STREAM_EXISTS = 10058


def configuration(bucket: str, replicas: int) -> api.StreamConfig:
    """A bucket, as its stream. No message may replace other keys' (rollup)."""
    kept = api.RePublish(src=f"$KV.{bucket}.>", dest=f"{subjects.KEPT}.{bucket}.>")
    by_vms, in_memory = bucket in subjects.BY_VMS, bucket == subjects.ALIVE and replicas > 1
    return api.StreamConfig(
        name=f"KV_{bucket}",
        subjects=[f"$KV.{bucket}.>"],
        max_msgs_per_subject=1,
        max_age=LIVES.get(bucket, 0),
        max_bytes=MOST_BYTES.get(bucket, -1),
        duplicate_window=min(LIVES.get(bucket, 120), 120),
        # One in memory is gone with its server, if that is alone. Else it spares the disks.
        storage=api.StorageType.MEMORY if in_memory else api.StorageType.FILE,
        num_replicas=replicas,
        no_ack=by_vms,
        republish=kept if by_vms else None,
        allow_rollup_hdrs=False,
        deny_delete=True,
        discard=api.DiscardPolicy.NEW,
    )


async def forget(client: FleetClient, vm: str) -> dict[str, Any]:
    """Remove a VM's rows and claims. Raises SeraiError if it is alive."""
    if vm in await client.alive():
        raise SeraiError(f"{vm} is alive", "stop serai-fleet.service there", WRONG_STATE)
    return {"vm": vm, "forgotten": await client.forget(vm)}


async def drained(client: FleetClient, vm: str, wish: str) -> dict[str, Any]:
    """Have a VM ``drain`` or ``undrain``. Raises SeraiError unless it says that it does so."""
    done = await client.asked(vm, "ask", {"do": wish})
    if done.get("draining") is not (wish == "drain"):
        why = short(done.get("error")) or "it does not say that it does so"
        raise SeraiError(f"{vm} does not {wish}: {why}")
    return done


async def emptied(
    client: FleetClient, where: address.Address, vm: str, *, bindings: bool = False
) -> dict[str, Any]:
    """Move the sessions of a VM to others that have room; again, it goes on. Raises SeraiError."""
    servers = f"nats://{','.join(where.nats)}"
    moved: list[str] = []
    left: dict[str, str] = {}
    with connect(f"{servers}/{vm}") as source:
        for session in await asyncio.to_thread(source.sessions):
            name = str(session.get("name"))
            try:
                if session["state"] == "moving":  # it goes where it began to go
                    begun = await asyncio.to_thread(partial(source.call, "move.show", name=name))
                    to = _of_the_fleet(begun["peer"])
                else:
                    to = await placing.found(client, placing.wanted(session["labels"]))
                there = f"{servers}/{to}"
                await placing.may_leave(client, name, vm, to)
                with connect(there) as target:
                    move = partial(Session(source, name).move, target, bindings=bindings)
                    await asyncio.to_thread(move)
                await placing.follow(client, name, vm, to)
            except (SeraiError, KeyError, TypeError, AttributeError) as error:
                left[name] = str(error)
                say(f"serai: {name} stays: {error}", sys.stderr)
                continue
            moved.append(name)
            say(f"{name} is on {to}", sys.stderr)
    return {"vm": vm, "moved": moved, "left": left}


def _of_the_fleet(peer: object) -> str:
    """The VM to which a session is going. Raises SeraiError if that is none of the fleet's.

    Its VM says so, and may say anything: where its sessions go is not for it to choose.
    """
    found = address.parse(str(peer))
    if not found.nats or not subjects.is_vm(found.vm):
        hint = "'serai move' finishes it"
        raise SeraiError(f"it is on its way to {found.text[:200]}, out of the fleet", hint)
    return found.vm


async def shown(client: FleetClient) -> list[dict[str, Any]]:
    """Each VM, and how it is."""
    looks = client.vms(), client.alive(), doubles.doubled(client.connection)
    vms, alive, twice = await asyncio.gather(*looks)
    found = []
    for vm in sorted({*vms, *alive}):
        what, now = vms.get(vm, {}), alive.get(vm)
        state = "gone" if now is None else "draining" if what.get("draining") else "up"
        texts = {
            key: short(what.get(key)) or None
            for key in ("version", "zone", "architecture", "image")
        }
        said = {**(now or {}), "room": what.get("room")}
        numbers = {key: number(said.get(key)) for key in ("room", "load", "sessions", "ready")}
        problem = None if now is None else short(now.get("problem"))
        if vm in twice:
            where = " and ".join(twice[vm][:MOST_ADDRESSES])
            problem = f"two connections use its key, or just did, from {where}: is it stolen?"
        found.append({"vm": vm, "state": state, **texts, **numbers, "problem": problem})
    return found


def show(vms: list[dict[str, Any]]) -> None:
    """For a person."""
    rows = [("VM", "STATE", "VERSION", "SESSIONS", "LOAD", "READY", "ZONE", "IMAGE")]
    for each in vms:
        load = None if each["load"] is None else f"{each['load']:.0%}"
        cells = (each["version"], each["sessions"], load, each["ready"], each["zone"])
        texts = (
            "-" if cell is None or cell == "" else str(cell) for cell in (*cells, each["image"])
        )
        rows.append((each["vm"], each["state"], *texts))
    table(rows)
    for each in vms:
        if each["problem"]:
            say(f"{each['vm']}: {each['problem']}")


async def carry_out(options: argparse.Namespace, where: address.Address) -> Any:
    """Do what was asked for; what there is to show. Raises SeraiError."""
    async with FleetClient(where.nats, settings.credentials()) as client:
        if options.command == "init":
            return await init(client, options.replicas)
        if options.command is None:
            return await shown(client)
        if not subjects.is_vm(options.name):
            raise SeraiError(f"{options.name!a} is no VM's name", code=INVALID_PARAMS)
        if options.command == "forget":
            return await forget(client, options.name)
        done = await drained(client, options.name, options.command)
        if options.command == "drain" and options.move:
            return await emptied(client, where, options.name, bindings=options.bindings)
        return done


def main(arguments: list[str]) -> int:
    """Be the command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        where = address.parse(options.vm) if options.vm else None
        if where is None or not where.nats:
            hint = "--vm or SERAI_VM takes nats://HOST"
            raise SeraiError("this takes the address of a fleet", hint, INVALID_PARAMS)
        result = asyncio.run(carry_out(options, where))
    except SeraiError as error:
        say(f"serai: {error}", sys.stderr)
        return 3 if error.code == GONE else 1
    except KeyboardInterrupt:
        return 130
    if options.command == "forget" and not result["forgotten"]:
        say(f"serai: nothing was known of {options.name}", sys.stderr)
    if options.json:
        print(json.dumps({"vms": result} if options.command is None else result))
    elif options.command is None:
        show(result)
    return 1 if options.command == "drain" and result.get("left") else 0


def run() -> None:
    """Be the program."""
    stdio.begin()
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
