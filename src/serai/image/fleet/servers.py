"""The configuration of a fleet's NATS servers, for nats-server 2.9 and newer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.image.errors import BuildError

PORT = 4222
ROUTE_STEP = 2000
"""How far the port is that servers have for each other: 6222, for 4222."""

MAX_PAYLOAD = "128KB"
"""A frame of a stream has 32 KiB, and a row a few."""

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\]")


@dataclass(frozen=True)
class NatsServer:
    """A server as VMs and clients know it. ``place`` is where its folder is on its host, ``store``
    where it keeps JetStream's data, ``listen`` the address that it listens on."""

    host: str
    port: int = PORT
    place: Path = Path("/etc/nats")
    store: Path = Path("/var/lib/nats")
    listen: str = "0.0.0.0"  # noqa: S104 - VMs and clients are elsewhere

    @property
    def name(self) -> str:
        """What it is called in the cluster, and its folder."""
        host = self.host.strip("[]").replace(":", "-")
        return host if self.port == PORT else f"{host}-{self.port}"

    @property
    def route_port(self) -> int:
        return self.port + ROUTE_STEP


def parse(text: str) -> NatsServer:
    """A server from HOST or HOST:PORT. Raises BuildError."""
    whole = re.fullmatch(rf"({_HOST.pattern})(?::([0-9]{{1,5}}))?", text)
    if not whole or not 1 <= int(whole.group(3) or PORT) <= 65535 - ROUTE_STEP:
        raise BuildError(f"'{text}' is no server", hint="HOST or HOST:PORT, in small letters")
    return NatsServer(whole.group(1), int(whole.group(3) or PORT))


def text(server: NatsServer, servers: Sequence[NatsServer]) -> str:
    """The file nats.conf of ``server``, one of ``servers``.

    Who the servers are is said by keys of their own: were it the authority of VMs and clients, each
    of these could join as a server, and hear all.
    """
    others = [each for each in servers if each != server]
    routes = "".join(f'    "nats-route://{each.host}:{each.route_port}"\n' for each in others)
    place = server.place
    cluster = f"""
# For the other servers. Nobody else needs this port, so a firewall may say so too.
cluster {{
  name: serai
  listen: "{server.listen}:{server.route_port}"
  advertise: "{server.host}:{server.route_port}"
  tls {{
    cert_file: "{place}/route-cert.pem"
    key_file: "{place}/route-key.pem"
    ca_file: "{place}/route-ca.pem"
    verify: true
    timeout: 20
  }}
  routes: [
{routes}  ]
}}
"""
    return f"""\
# A server of a fleet. Written by 'invoke fleet-keys'.
server_name: "{server.name}"
listen: "{server.listen}:{server.port}"
client_advertise: "{server.host}:{server.port}"
max_payload: {MAX_PAYLOAD}
max_connections: 65536
max_subscriptions: 4096 # of one connection
max_control_line: 1KB
max_pending: 8MB # of one connection that does not read
write_deadline: "5s"
ping_interval: "10s"
ping_max: 2

# No passwords: who somebody is is said by the name in the certificate.
tls {{
  cert_file: "{place}/cert.pem"
  key_file: "{place}/key.pem"
  ca_file: "{place}/ca.pem"
  verify_and_map: true
  timeout: 20 # when thousands come at once
}}
authorization {{ timeout: 30 }}

jetstream {{
  store_dir: "{server.store}"
  max_memory_store: 256MB
  max_file_store: 4GB
}}
system_account: SYS
include "./users.conf"
{cluster if others else ""}"""
