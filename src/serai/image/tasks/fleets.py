"""Tasks about fleets: their keys and seeds, one to try, and measurements."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from serai.image.commands.options import command
from serai.image.fleet import campaign
from serai.image.fleet import command as fleet
from serai.image.scale import scale
from serai.image.tasks.defaults import SETTINGS
from serai.image.vm import describe


@command(name="fleet-keys", iterable=["server", "vm", "client", "revoke"])
def make_fleet_keys(
    _c: Context,
    folder: str,
    *,
    server: list[str] | None = None,
    vm: list[str] | None = None,
    client: list[str] | None = None,
    revoke: list[str] | None = None,
    renew: bool = False,
) -> None:
    """Make the keys of a fleet's VMs, clients and NATS servers, and the servers' configuration."""
    fleet.keys_of(
        Path(folder),
        servers=server or (),
        vms=vm or (),
        clients=client or (),
        revoke=revoke or (),
        renew=renew,
    )


@command(name="fleet-seed", iterable=["vm"])
def make_fleet_seeds(
    _c: Context,
    folder: str,
    *,
    vm: list[str] | None = None,
    zone: str = "",
    sessions: int = 0,
    key: str = "",
) -> None:
    """Write what cloud-init gives VMs so that they join a fleet, with their keys in it."""
    public = describe.public_key(Path(key)) if key else ""
    fleet.seeds_of(Path(folder), vm or (), zone=zone, sessions=sessions, key=public)


@command(name="fleet")
def try_fleet(_c: Context, sessions: int = 300, kills: int = 20, seed: str = "1") -> int:
    """Place sessions in a fleet of containers while VMs and servers are killed at random."""
    return campaign.campaign(SETTINGS, sessions, kills, seed)


@command(name="scale")
def measure_scale(_c: Context, only: str = "") -> None:
    """Measure a fleet's NATS servers, play fleets of many VMs, and write docs/scale.md."""
    scale.scale(SETTINGS, only)
