"""Three nats-servers on loopback, with keys and configuration as `invoke fleet-keys` makes them.

The processor time and the memory of each are the kernel's figures of its process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.image.errors import BuildError
from serai.image.fleet import keys, loopback, permissions
from serai.image.fleet.servers import NatsServer
from serai.image.run import started

SERVERS = 3
CLIENT = "scale"
_PORT, _MONITOR = 4300, 4500  # in a network of our own, so nobody else has them
_PAGE = os.sysconf("SC_PAGE_SIZE")


def member(number: int) -> str:
    """The name of a VM."""
    return f"vm-{number}"


@dataclass(frozen=True)
class RunningServer:
    """One of the three servers."""

    server: NatsServer
    pid: int

    @property
    def name(self) -> str:
        return self.server.name

    def cpu(self) -> float:
        """The seconds of processor time that it has used."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")  # Go's threads stay
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e9

    def memory(self) -> int:
        """Bytes that are resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    def disk(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.server.store.rglob("*") if path.is_file())

    def asked(self, what: str) -> Any:
        """What its monitoring port says, such as ``jsz``."""
        url = f"http://127.0.0.1:{self.server.port - _PORT + _MONITOR}/{what}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)


class Cluster:
    """The three, each of which can be killed and started again."""

    def __init__(self, folder: Path, vms: int, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        servers = [loopback.server(folder, port) for port in range(_PORT, _PORT + SERVERS)]
        names = [member(number) for number in range(vms)]
        keys.make(folder, added=servers, vms=names, clients=[CLIENT])
        self.found = [self._started(each) for each in servers]

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of each."""
        return [f"{each.server.host}:{each.server.port}" for each in self.found]

    def kill(self, name: str) -> None:
        """End that server as a power cut does."""
        os.kill(next(each.pid for each in self.found if each.name == name), signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Start the one that was killed."""
        names = [each.name for each in self.found]
        number = names.index(name)
        self.found[number] = self._started(self.found[number].server)

    def wait(self, seconds: float = 120) -> None:
        """Until the three agree on who leads JetStream."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                said = [each.asked("jsz").get("meta_cluster", {}) for each in self.found]
                if len({each.get("leader") for each in said}) == 1 and said[0].get("leader"):
                    return
            time.sleep(0.2)
        raise BuildError("the three nats-servers found no leader within two minutes")

    def configure(self, running: RunningServer, vms: int) -> int:
        """Give a server a file with so many VMs; returns its size."""
        users = [permissions.of_vm(member(each), f"{member(each)}.vm.serai") for each in range(vms)]
        users.append(permissions.of_client(keys.user("client", CLIENT, 1)))
        path = running.server.place / "users.conf"
        path.write_text(permissions.text(users))
        return path.stat().st_size

    def _started(self, server: NatsServer) -> RunningServer:
        argv = [*loopback.argv(server), "-m", str(server.port - _PORT + _MONITOR)]
        log = self.folder / f"{server.name}.log"
        return RunningServer(server, self._stack.enter_context(started(argv, log=log)).pid)


@contextlib.contextmanager
def cluster(folder: Path, vms: int) -> Iterator[Cluster]:
    """Three servers that have found a leader; so many VMs have certificates, and one client."""
    with contextlib.ExitStack() as stack:
        made = Cluster(folder, vms, stack)
        made.wait()
        yield made
