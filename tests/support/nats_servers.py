"""NATS servers on loopback, with keys and configuration of ``invoke fleet-keys``."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from serai.image.fleet import keys, loopback
from serai.image.fleet.servers import NatsServer
from tests.support.waiting import wait_for

DEADLINE = 30.0
RELOADED = "Reloaded server configuration"  # the last that a server says of it


@dataclass
class Servers:
    """``folder`` is a fleet's, as ``invoke fleet-keys`` makes it; each of ``all`` may run."""

    folder: Path
    all: list[NatsServer]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [f"tls://{server.host}:{server.port}" for server in self.all]

    @property
    def address(self) -> str:
        """As in ``serai --vm``."""
        return "nats://" + ",".join(f"{server.host}:{server.port}" for server in self.all)

    def make(self, **changes: Any) -> list[str]:
        """Change the fleet's folder; see keys.make."""
        return keys.make(self.folder, added=self.all, **changes)[1]

    def start(self, server: NatsServer) -> None:
        log = self.folder / f"{server.name}.log"
        self.running[server.name] = loopback.start(server, log)

    def kill(self, server: NatsServer) -> None:
        """As a power cut does."""
        process = self.running.pop(server.name)
        process.kill()
        process.wait()

    def reload(self) -> None:
        """Have them read their configuration, and wait until each does as it says."""
        running = [server for server in self.all if server.name in self.running]
        wanted = {server.name: self.log(server).count(RELOADED) + 1 for server in running}
        for process in self.running.values():
            process.send_signal(signal.SIGHUP)
        for server in running:
            wait_for(lambda: self.log(server).count(RELOADED) >= wanted[server.name])  # noqa: B023

    def log(self, server: NatsServer) -> str:
        return (self.folder / f"{server.name}.log").read_text(errors="replace")

    def context(self, kind: str, name: str) -> ssl.SSLContext:
        return context(self.folder / f"{kind}s" / name)

    async def connect(
        self,
        kind: str,
        name: str,
        *,
        servers: Sequence[str] = (),
        keys: Path | None = None,
        **more: Any,
    ) -> Client:
        """A connection of the VM or client ``name``; it does not come back by itself."""
        tls = context(keys) if keys else self.context(kind, name)
        options = {"allow_reconnect": False, "connect_timeout": DEADLINE, **more}
        if kind == "vm":
            options.setdefault("inbox_prefix", f"_INBOX.{name}")
        return await nats.connect(list(servers or self.urls), tls=tls, **options)


def context(folder: Path) -> ssl.SSLContext:
    """The keys in ``folder``, as a member or a client uses them."""
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made


@contextmanager
def cluster(
    folder: Path, count: int, vms: Sequence[str], clients: Sequence[str] = ("alice",)
) -> Iterator[Servers]:
    """``count`` servers with JetStream, as soon as it answers."""
    found = Servers(folder, [loopback.server(folder, port) for port in loopback.unused(count)])
    found.make(vms=vms, clients=clients)
    try:
        for server in found.all:
            found.start(server)
        ready(found, clients[0])
        yield found
    finally:
        for process in found.running.values():
            process.kill()
            process.wait()


def ready(found: Servers, client: str) -> None:
    """Wait until JetStream answers at every server that runs."""
    for server in found.all:
        if server.name in found.running:
            url = f"tls://{server.host}:{server.port}"
            wait_for(partial(_answers_now, found, client, url), DEADLINE)


def _answers_now(found: Servers, client: str, url: str) -> bool:
    return asyncio.run(_answers(found, client, url))


async def _answers(found: Servers, client: str, url: str) -> bool:
    try:
        connection = await found.connect("client", client, servers=[url])
    except (OSError, nats.errors.Error, asyncio.TimeoutError):
        return False
    try:
        await connection.jetstream(timeout=1).account_info()
    except (JetStreamError, nats.errors.Error, asyncio.TimeoutError):
        return False
    finally:
        await connection.close()
    return True


@contextmanager
def placed(folder: Path, ports: Sequence[int], etc: Path) -> Iterator[None]:
    """Servers as on hosts of their own, with what ``invoke fleet-keys`` says for /etc/nats."""
    started = []
    try:
        for port in ports:
            home = etc / str(port)
            shutil.copytree(folder / "servers" / f"127.0.0.1-{port}", home)
            text = (home / "nats.conf").read_text().replace("/etc/nats", str(home))
            text = text.replace("/var/lib/nats", str(home / "store")).replace(
                "0.0.0.0",  # noqa: S104 - it is what is not wanted here
                "127.0.0.1",
            )
            (home / "nats.conf").write_text(text)
            started.append(loopback.start(NatsServer("127.0.0.1", port, home), home / "log"))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
