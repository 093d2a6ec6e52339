"""A way out of a sandbox's network is red, alone; it is changed from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serai.common.checks import Facts, judge
from serai.runtime.doctor import request
from tests.support.sandbox import Room
from tests.support.weak_sandbox import CHECKS, Vm, look, red


@contextmanager
def in_network(room: Room, *commands: str) -> Iterator[None]:
    """Commands of ip(8) in the sandbox's network namespace, undone by the last ones ('-…')."""
    enter_ = ["nsenter", f"--target={room.target.pid}", "--net", "--"]

    def carry_out(command: str) -> None:
        subprocess.run([*enter_, *command.lstrip("-").split()], check=True)

    for command in commands:
        if not command.startswith("-"):
            carry_out(command)
    try:
        yield
    finally:
        for command in commands:
            if command.startswith("-"):
                carry_out(command)


def local(address: str) -> tuple[str, str]:
    return (f"ip route add local {address} dev lo", f"-ip route del local {address} dev lo")


NETWORK: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "tcp": (local("192.0.2.1/32"), {"TCP past the gate goes nowhere"}),
    "udp": (local("198.51.100.1/32"), {"UDP past the gate goes nowhere"}),
    "metadata": (
        local("169.254.169.254/32"),
        {"a cloud's metadata service is out of reach"},
    ),
    "tcp6": (
        (
            "ip -6 route add local 2001:db8::1/128 dev lo",
            "-ip -6 route del local 2001:db8::1/128 dev lo",
        ),
        {"IPv6 past the gate goes nowhere"},
    ),
    "route": (
        ("ip route add 203.0.113.0/24 dev lo", "-ip route del 203.0.113.0/24 dev lo"),
        {"there is no route"},
    ),
    "interface": (
        ("ip link add more type bridge", "-ip link del more"),
        {"there is no interface but the loopback"},
    ),
}


@pytest.mark.parametrize("name", NETWORK)
def test_a_way_out_is_red(vm: Vm, room: Room, name: str) -> None:
    commands, wanted = NETWORK[name]
    with in_network(room, *commands):
        found = red(vm, room)
    assert set(found) == wanted, found


SERVER = """
import os, socket, sys
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
os.write(1, b"x")
while True:
    servers[0].accept()
"""


@contextmanager
def served(room: Room, port: int) -> Iterator[None]:
    """Something in the network namespace, but not of the session, listens on a port."""
    argv = ["nsenter", f"--target={room.target.pid}", "--net", "--", sys.executable, "-c", SERVER]
    with subprocess.Popen([*argv, str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        try:
            yield
        finally:
            process.kill()


def test_another_service_is_red(vm: Vm, room: Room) -> None:
    with served(room, 4444):
        assert set(red(vm, room)) == {"only the bridge listens"}
    with served(room, vm.port):
        assert set(red(vm, room)) == {
            "only the bridge listens",
            "the VM's own services are out of reach",
        }


def test_a_name_that_is_resolved_is_red(vm: Vm, room: Room) -> None:
    hosts = vm.session.state / "hosts"
    before = hosts.read_text()
    hosts.write_text(before + "192.0.2.9 example.com\n")
    try:
        assert set(red(vm, room)) == {
            "only the gate can look names up",
            "the hosts file is the session's own",
        }
    finally:
        hosts.write_text(before)


def test_a_bridge_that_does_not_answer_is_red(vm: Vm, room: Room) -> None:
    """A connection limit in the sandbox's network: the port is there, and nobody gets through."""
    facts = request.found(room.run(request.STATUS).output, look(vm, room).output)
    facts["wanted"] = request.wanted(room.settings, room.session)
    facts["network"]["bridge"] = ["ECONNREFUSED", ""]
    found = {each.check.name for each in judge(Facts(facts), {}, CHECKS) if not each.ok}
    assert found == {"both ports of the bridge answer"}
