"""A fleet's NATS servers on this host's loopback, to try and to measure with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serai.image import ports
from serai.image.fleet.servers import ROUTE_STEP, NatsServer
from serai.image.ports import HOST
from serai.image.run import with_pdeathsig

PROGRAM = Path(sys.executable).with_name("nats-server")


def server(folder: Path, port: int) -> NatsServer:
    """One whose keys, configuration and data are in a folder of ``keys.make``."""
    place = folder / "servers" / f"{HOST}-{port}"
    return NatsServer(HOST, port, place, folder / f"store-{port}", HOST)


def argv(one: NatsServer) -> list[str | Path]:
    """The command that is it."""
    return [PROGRAM, "--config", one.place / "nats.conf"]


def start(one: NatsServer, log: Path) -> subprocess.Popen[bytes]:
    """Start it; what it says is added to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(with_pdeathsig(argv(one)), stdout=output, stderr=output)


def unused(count: int) -> list[int]:
    """Free ports for servers: those of their routes are free too."""
    return ports.unused(count, beside=ROUTE_STEP)
