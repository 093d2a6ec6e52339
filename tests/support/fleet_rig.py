"""A fleet of two VMs with real sessions at a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from serai import connect
from serai.fleet import command, subjects
from serai.runtime.library import Vm as Library
from tests.support import nats_servers
from tests.support.fake_vm import CHECKOUT, DEADLINE, Vm, opened
from tests.support.fleet_members import answers, client, prepare, prepared, started
from tests.support.nats_servers import Servers
from tests.support.waiting import wait_for

QUICK = 0.5
"""Seconds between signs of life, here."""
CODE = "import sys; from serai.runtime.cli.main import script; sys.exit(script())"


@dataclass
class Rig:
    """Two VMs, each with its member."""

    servers: Servers
    vms: dict[str, Vm]
    members: dict[str, subprocess.Popen[bytes]]
    stack: ExitStack

    @cached_property
    def fleet(self) -> Library:
        """A connection for what is no test's subject: a command costs a quarter of a second."""
        return self.stack.enter_context(self.connect())

    def create(self, name: str | None = None, zone: str = "") -> str:
        labels = {"fleet.zone": f"{zone}-side"} if zone else {}
        return self.fleet.create(name, labels=labels).name

    def remove(self, *names: str) -> None:
        for name in names:
            self.fleet.call("remove", name=name)

    def kill(self, vm: str) -> None:
        self.members[vm].kill()
        self.members[vm].wait()
        self.__dict__.pop("fleet", None)  # its link is dead, which it may learn seconds later

    def start(self, vm: str) -> None:
        self.members[vm] = self.stack.enter_context(started(self.vms[vm].root, QUICK))

    def serai(self, *arguments: str, vm: str = "", **options: Any) -> str:
        """What the command says; it must succeed."""
        done = self.run(*arguments, vm=vm, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self, *arguments: str, vm: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        address = self.servers.address + (vm and f"/{vm}")
        env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/src", "SERAI_VM": address}
        options = {"stdin": subprocess.DEVNULL, **options}
        return subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 2,
            **options,
        )

    def connect(self, vm: str = "") -> Library:
        return connect(self.servers.address + (vm and f"/{vm}"))

    def where(self, name: str) -> str:
        """The VM that really has a session, be it that another one still removes it."""
        gone = {"state": "removing"}
        states = {vm: each.sessions().get(name, gone)["state"] for vm, each in self.vms.items()}
        (found,) = (vm for vm, state in states.items() if state != "removing")
        return found


@contextmanager
def running(folder: Path) -> Iterator[Rig]:
    """The two, with keys and all in this folder, and SERAI_FLEET as a client has it."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        servers = stack.enter_context(nats_servers.cluster(folder, 1, ["a", "b", "thief"]))
        patch.setenv("SERAI_FLEET", str(folder / "clients/alice"))
        patch.setitem(command.LIVES, subjects.ALIVE, QUICK * 10)
        asyncio.run(prepared(servers))
        made = Rig(servers, {}, {}, stack)
        for name in ("a", "b"):
            vm = made.vms[name] = stack.enter_context(opened())
            vm.start()
            prepare(servers, name, vm.root, f'[labels]\nzone = "{name}-side"\n')
            plenty(vm.root / "proc")
            made.start(name)
        for name in made.vms:
            answers(servers, name)
        wait_for(lambda: shown(made).count("up") == 2 and not any(problems(made)))
        yield made


def plenty(proc: Path) -> None:
    """What a VM with room says: the host of the tests may have little."""
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "loadavg").write_text("0.1 0.1 0.1 1/100 100\n")
    (proc / "sys/kernel/pid_max").write_text("30000\n")


def vms(rig: Rig) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        async with client(rig.servers) as fleet:
            return await command.shown(fleet)

    return asyncio.run(ask())


def shown(rig: Rig) -> list[str]:
    return [each["state"] for each in vms(rig)]


def problems(rig: Rig) -> list[str]:
    return [each["problem"] for each in vms(rig)]


def told(rig: Rig, name: str) -> list[dict[str, Any]]:
    """The rows of a session's name."""

    async def ask() -> list[dict[str, Any]]:
        async with client(rig.servers) as fleet:
            return await fleet.sessions(name)

    return asyncio.run(ask())
