"""Members of a fleet as processes, and a client's side of it, at the servers of nats_servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.fleet import command, subjects
from serai.fleet.client import FleetClient
from serai.image.run import with_pdeathsig
from serai.runtime import address
from tests.support.fake_vm import CHECKOUT
from tests.support.nats_servers import Servers
from tests.support.waiting import wait_for

CODE = """
import sys
from serai.fleet import member, subjects
subjects.BEAT = {}
sys.exit(member.main(sys.argv[1:]))
"""


@contextmanager
def member(servers: Servers, vm: str, root: Path, settings: str = "") -> Iterator[list[int]]:
    """The member of the VM below ``root``; yields its PID."""
    prepare(servers, vm, root, settings)
    with started(root) as process:
        answers(servers, vm)
        yield [process.pid]


def answers(servers: Servers, vm: str) -> None:
    """Wait until a member is there."""
    wait_for(lambda: asyncio.run(asks(servers, vm)))


async def asks(servers: Servers, vm: str) -> bool:
    """Whether a member is there."""
    async with client(servers) as made:
        subject = f"serai.down.{vm}.ask"
        return await made.connection.request(subject, b'{"do": "status"}', 1) is not None


def prepare(servers: Servers, vm: str, root: Path, settings: str = "") -> None:
    """What a VM has of the fleet."""
    folder = root / "etc/serai"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "fleet").exists():
        (folder / "fleet").symlink_to(servers.folder / "vms" / vm)
    hosts = ", ".join(f'"{each.host}:{each.port}"' for each in servers.all)
    (folder / "fleet.toml").write_text(f'name = "{vm}"\nservers = [{hosts}]\n{settings}')


@contextmanager
def started(root: Path, beat: float = subjects.BEAT) -> Iterator[subprocess.Popen[bytes]]:
    """A member, until the block is left; it says that it lives each ``beat`` seconds."""
    env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/src"}
    with (root / "member.log").open("ab") as log:
        argv = with_pdeathsig([sys.executable, "-c", CODE.format(beat), root])
        process = subprocess.Popen(argv, env=env, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def client(servers: Servers, name: str = "alice") -> FleetClient:
    """A client's, to use in ``async with``."""
    where = address.parse(servers.address)
    return FleetClient(where.nats, servers.folder / "clients" / name, name)


async def prepared(servers: Servers, replicas: int = 1) -> None:
    """Make the buckets."""
    async with client(servers) as made:
        await command.init(made, replicas)
