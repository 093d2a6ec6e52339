from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serai.common.errors import GONE, SeraiError
from serai.runtime import address


def test_ssh_gets_what_the_address_says() -> None:
    found = address.parse("ssh://root@vm.example:2222").ssh
    assert found == ("-T", "-p", "2222", "-l", "root", "--", "vm.example", "serai", "stdio")
    assert address.parse("ssh://vm/").ssh == ("-T", "--", "vm", "serai", "stdio")
    assert address.parse("ssh://Build-VM").ssh[2] == "Build-VM"
    assert address.parse("ssh://root@[::1]:22").ssh[-3] == "::1"
    assert address.parse("ssh://[fe80::1]").ssh[-3] == "fe80::1"
    assert address.parse("unix:///run/a%20b.sock").path == Path("/run/a b.sock")


def test_a_vsock_is_a_cid_and_a_port() -> None:
    assert address.parse("vsock://3:9777").vsock == (3, 9777)
    largest = (1 << 32) - 2
    assert address.parse(f"vsock://{largest}:{largest}/").vsock == (largest, largest)


def test_a_fleet_is_its_servers_and_maybe_one_vm() -> None:
    found = address.parse("nats://one.example,10.0.0.2:5000,[::1]/vm-7")
    assert found.nats == ("one.example:4222", "10.0.0.2:5000", "[::1]:4222")
    assert found.vm == "vm-7"
    assert address.parse("nats://one/").vm == address.parse("nats://one").vm == ""


def test_a_host_without_the_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "find_spec", lambda _: None)
    with pytest.raises(SeraiError, match="takes the package nats-py; pip install 'serai"):
        address.connect(address.parse("nats://one"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nats:",
        "nats://",
        "nats:///vm",
        "nats://one,",
        "nats://one/a/b",
        "nats://one/-a",
        "nats://one/A",
        "nats://one:0",
        "nats://one:65536",
        "nats://one:x",
        "nats://me:secret@one",
        "nats://one?x",
        "nats://one\n",
        "nats://o ne",
        "nats://one/*",
        "vm",
        "root@vm",
        "http://vm",
        "vsock:",
        "vsock://",
        "vsock://3",
        "vsock://3:",
        "vsock://:1",
        "vsock://vm:1",
        "vsock://root@3:1",
        "vsock://3:1/path",
        "vsock://3:1?x",
        "vsock://3:1\n",
        "vsock://-3:1",
        "vsock://٣:1",
        "vsock://0:1",
        "vsock://1:1",
        "vsock://2:1",
        "vsock://4294967295:1",
        "vsock://3:0",
        "vsock://3:4294967295",
        "ssh://",
        "ssh://vm/path",
        "ssh://[::1",
        "ssh://vm:0",
        "ssh://vm:65536",
        "ssh://vm:x",
        "ssh://root:secret@vm",
        "ssh://vm?x",
        "ssh://vm#x",
        "ssh://-oProxyCommand=touch%20x",
        "ssh://-oProxyCommand=x@vm",
        "unix://",
        "unix:///",
        "unix://host/path",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SeraiError, match="is no address of a VM"):
        address.parse(text)


def test_a_host_without_ssh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERAI_SSH", "/nowhere/ssh -v")
    with pytest.raises(SeraiError, match="there is no program '/nowhere/ssh -v' here") as caught:
        address.connect(address.parse("ssh://vm"))
    assert caught.value.code == GONE


class Socket:
    """In the place of a real one: none of this host's VMs is to be reached."""

    made: list[tuple[int, int]]
    connected: list[object]
    closed = 0
    problem: OSError | None = None

    def __init__(self, family: int, kind: int) -> None:
        self.made.append((family, kind))

    def connect(self, place: object) -> None:
        self.connected.append(place)
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> type[Socket]:
    made = type("Made", (Socket,), {"made": [], "connected": []})
    monkeypatch.setattr(socket, "socket", made)
    return made


def test_a_vsock_is_connected_to(sockets: type[Socket]) -> None:
    address.connect(address.parse("vsock://3:9777"))
    assert sockets.made == [(socket.AF_VSOCK, socket.SOCK_STREAM)]
    assert (sockets.connected, sockets.closed) == ([(3, 9777)], 0)


def test_a_vsock_that_does_not_answer_is_told_with_where_to_look(sockets: type[Socket]) -> None:
    sockets.problem = OSError(19, "No such device")
    said = r"^cannot reach vsock://3:9777: No such device; .* serai-vsock\.socket listen"
    with pytest.raises(SeraiError, match=said) as caught:
        address.connect(address.parse("vsock://3:9777"))
    assert (caught.value.code, sockets.closed) == (GONE, 1)


def test_a_system_without_vsock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_VSOCK")
    with pytest.raises(SeraiError, match="has no vsock; on a Mac") as caught:
        address.connect(address.parse("vsock://3:9777"))
    assert caught.value.code == GONE
