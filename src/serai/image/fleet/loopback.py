"""A fleet's NATS servers on this host's loopback, to try and to measure with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from serai.image.fleet.servers import ROUTE_STEP, NatsServer
from serai.image.run import with_pdeathsig

HOST = "127.0.0.1"
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
    """Free ports, that of the routes too; from a range that no client's own ports are in."""
    found: list[int] = []
    port = 15000 + os.getpid() % 1000
    while len(found) < count:
        port += 1
        if all(_free(each) for each in (port, port + ROUTE_STEP)):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True
