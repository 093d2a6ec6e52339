"""What ``invoke fleet-keys`` and ``invoke fleet-seed`` say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serai.image import console
from serai.image.errors import BuildError
from serai.image.fleet import keys, seeds
from serai.image.fleet import servers as nats


def keys_of(
    folder: Path,
    *,
    servers: Sequence[str],
    vms: Sequence[str],
    clients: Sequence[str],
    revoke: Sequence[str],
    renew: bool,
) -> None:
    """Make or change a fleet's folder, and say what is to be done with it. Raises BuildError."""
    if not (folder / keys.FILE).exists() and not (servers and vms and clients):
        raise BuildError(
            f"{folder} is no fleet's yet",
            hint="begin one with --server HOST, --vm NAME and --client NAME",
        )
    added = [nats.parse(text) for text in servers]
    fleet, ending = keys.make(
        folder, added=added, vms=vms, clients=clients, revoke=revoke, renew=renew
    )
    for line in ending:
        console.warn(line)
    for text in fleet.servers:
        server = nats.parse(text)
        console.say(f"server {text}: servers/{server.name}/* into {server.place}, then reload it")
    for kind in ("vm", "client"):
        for name in sorted(fleet.of(kind)):
            console.say(f"{kind} {name}: {kind}s/{name}")
    if revoke:
        console.warn("who was withdrawn is cut off when each server has its new users.conf")


def seeds_of(folder: Path, vms: Sequence[str], *, zone: str, sessions: int, key: str) -> None:
    """Write VMs' seeds, and say where they are. Raises BuildError."""
    if sessions < 0:
        raise BuildError(f"--sessions {sessions} is less than none", hint="0: as there is room")
    for home in seeds.make(folder, vms, zone=zone, sessions=sessions, key=key):
        console.say(f"vm {home.name}: {home}/seed.img, or its user-data; both have its key")
