"""A fleet to try things with: containers as VMs, and NATS servers, all on this host's loopback.

Each can be killed as by a power cut, and started again with all that it had on its disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats

from serai import connect
from serai.common.errors import SeraiError
from serai.fleet import command
from serai.fleet.client import FleetClient
from serai.image.container.container import Container, booted
from serai.image.errors import BuildError
from serai.image.fleet import keys, loopback
from serai.image.fleet.servers import NatsServer
from serai.image.run import Argument, with_pdeathsig
from serai.runtime import address
from serai.runtime.library import Vm

CLIENT = "operator"
DEADLINE = 120.0

_JOIN = """
set -eu
until [[ $(systemctl is-system-running --wait) =~ running|degraded ]]; do sleep 0.1; done
cd /root/join
useradd --system --groups serai --home-dir /nonexistent --no-create-home serai-fleet
PYTHONPATH=/usr/lib/serai/serai.whl python3 -m serai.install.fleet \\
    /usr/lib/serai/serai.whl nats_py.whl
install -d -m 750 -g serai-fleet /etc/serai/fleet
install -m 640 -g serai-fleet -t /etc/serai/fleet keys/*.pem
install -m 640 -g serai-fleet fleet.toml /etc/serai/fleet.toml
systemctl daemon-reload
systemctl --quiet enable --now serai-fleet
"""


@dataclass
class RigVm:
    """A VM of the rig; ``container`` while it runs."""

    name: str
    work: Path
    running: ExitStack = field(default_factory=ExitStack)
    container: Container | None = None


@dataclass
class Rig:
    """``vms`` and ``servers`` by name; ``up`` are the servers that run."""

    folder: Path
    root: Path
    servers: dict[str, NatsServer]
    vms: dict[str, RigVm]
    up: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return "nats://" + ",".join(f"{each.host}:{each.port}" for each in self.servers.values())

    def connect(self, vm: str = "", timeout: float | None = 60) -> Vm:
        """A client's connection to the fleet, or to one VM through it. Raises SeraiError."""
        return connect(self.address + (vm and f"/{vm}"), timeout)

    def start(self, server: str) -> None:
        self.up[server] = loopback.start(self.servers[server], self.folder / f"{server}.log")

    def kill(self, server: str) -> None:
        process = self.up.pop(server)
        process.kill()
        process.wait()

    def boot(self, vm: str) -> None:
        """Start a VM, and do not wait for all that it starts. Raises BuildError."""
        one = self.vms[vm]
        one.work.mkdir(exist_ok=True)
        there = booted(self.root, one.work, again=True, settled=False)
        one.container = one.running.enter_context(there)

    def cut(self, vm: str) -> None:
        """Switch a VM off, at once."""
        one = self.vms[vm]
        if one.container is None:
            raise BuildError(f"{vm} does not run")
        os.kill(one.container.process.pid, signal.SIGKILL)
        one.container = None
        one.running.close()

    def shown(self) -> dict[str, dict[str, Any]]:
        """What ``serai fleet`` says of each VM. Raises SeraiError."""

        async def ask() -> list[dict[str, Any]]:
            where = address.parse(self.address)
            async with FleetClient(where.nats, self.credentials, CLIENT) as client:
                return await command.shown(client)

        return {each["vm"]: each for each in asyncio.run(ask())}

    def ready(self, *vms: str) -> None:
        """Wait until these VMs are up, and nothing is wrong with them."""
        names = vms or tuple(self.vms)

        def there() -> bool:
            shown = self.shown()
            found = [shown.get(name, {}) for name in names]
            return all(each.get("state") == "up" and not each["problem"] for each in found)

        wait(there, f"{', '.join(names)} up")

    @property
    def credentials(self) -> Path:
        return self.folder / "keys/clients" / CLIENT

    def join(self, vm: str) -> None:
        """Make a new VM a member. Raises BuildError."""
        one = self.vms[vm]
        join = one.work / "join"
        join.mkdir()
        _wheel(join / "nats_py.whl")
        (join / "keys").symlink_to(self.folder / "keys/vms" / one.name)
        hosts = ", ".join(f'"{each.host}:{each.port}"' for each in self.servers.values())
        (join / "fleet.toml").write_text(f'name = "{one.name}"\nservers = [{hosts}]\n')
        if one.container is None:
            raise BuildError(f"{one.name} does not run")
        pack: list[Argument] = ["tar", "--dereference", "-C", one.work, "-cf", "-", "join"]
        unpack = one.container.argv(["tar", "-C", "/root", "--no-same-owner", "-xf", "-"])
        with subprocess.Popen(with_pdeathsig(pack), stdout=subprocess.PIPE) as packed:
            subprocess.run(with_pdeathsig(unpack), stdin=packed.stdout, check=True)
        one.container.shell(_JOIN)


@contextmanager
def rig(root: Path, folder: Path, vms: Sequence[str], count: int = 3) -> Iterator[Rig]:
    """A fleet of these VMs and ``count`` servers, all up. ``root`` is roots.provisioned."""
    added = [loopback.server(folder / "keys", port) for port in loopback.unused(count)]
    keys.make(folder / "keys", added=added, vms=vms, clients=[CLIENT])
    all_vms = {name: RigVm(name, folder / name) for name in vms}
    servers = {each.name: each for each in added}
    made = Rig(folder, root, servers, all_vms)
    before = os.environ.get("SERAI_FLEET")
    os.environ["SERAI_FLEET"] = str(made.credentials)
    try:
        for server in servers:
            made.start(server)
        wait(lambda: init(made.address, made.credentials, count), "the servers answer")
        for name in vms:
            made.boot(name)
        for name in vms:
            made.join(name)
        made.ready()
        yield made
    finally:
        for one in all_vms.values():
            one.running.close()
        for server in list(made.up):
            made.kill(server)
        if before is None:
            del os.environ["SERAI_FLEET"]
        else:
            os.environ["SERAI_FLEET"] = before


def wait(condition: Callable[[], object], told: str, deadline: float = DEADLINE) -> None:
    """Wait until something is so. Raises BuildError after so many seconds."""
    end, why = time.monotonic() + deadline, ""
    while True:
        try:
            if condition():
                return
        except SeraiError as error:
            why = f": {error}"
        if time.monotonic() > end:
            raise BuildError(f"waited {deadline:g} s in vain for: {told}{why}")
        time.sleep(0.1)


def init(place: str, credentials: Path, replicas: int) -> bool:
    """Make a fleet's buckets at the servers of an address. Raises SeraiError."""

    async def make() -> None:
        async with FleetClient(address.parse(place).nats, credentials, CLIENT) as client:
            await command.init(client, replicas)

    asyncio.run(make())
    return True


def _wheel(path: Path) -> None:
    """nats-py as this host has it: the one of the lock file."""
    home = Path(nats.__file__).parent
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(home.rglob("*.py")):
            archive.write(each, each.relative_to(home.parent))
