"""Tunnels through the gate, by CONNECT and by SOCKS5: bytes, ends and failures, both ways."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import gate_process, origins
from tests.support.gate_process import Gated, everything, until
from tests.support.origins import Origin, echo, serving
from tests.support.socks import NOT_ALLOWED, OPEN, REFUSED, socks_request
from tests.support.waiting import wait_for

Tunnel = Callable[..., socket.socket]


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    with gate_process.gate() as running:
        running.open("blue", "127.0.0.1", "localhost", "[::1]")
        yield running


@pytest.fixture(autouse=True)
def unharmed(gate: Gated) -> Iterator[None]:
    """After each test no connection and no descriptor is left."""
    yield
    wait_for(lambda: gate.call("status")["blue"] == 0)
    wait_for(lambda: gate.descriptors() <= 16)


def greeted(gate: Gated) -> socket.socket:
    sock = gate.connect("blue", "socks")
    sock.sendall(b"\x05\x02\x02\x00")
    assert sock.recv(2) == b"\x05\x00"
    return sock


def by_connect(gate: Gated, origin: Origin, early: bytes = b"") -> socket.socket:
    return gate.tunnel("blue", origin.place, early)


def by_socks(gate: Gated, origin: Origin, early: bytes = b"") -> socket.socket:
    """Greeting, request and what comes after it in one: a client that does not wait."""
    sock = gate.connect("blue", "socks")
    address = socket.inet_aton("127.0.0.1")
    sock.sendall(b"\x05\x01\x00" + socks_request(address, origin.port, kind=1) + early)
    assert sock.recv(2) == b"\x05\x00"
    answer = b""
    while len(answer) < len(OPEN):
        answer += sock.recv(len(OPEN) - len(answer))
    assert answer == OPEN
    return sock


@pytest.fixture(params=[by_connect, by_socks])
def tunnel(request: pytest.FixtureRequest) -> Tunnel:
    made: Tunnel = request.param
    return made


def test_bytes_go_both_ways_at_once(gate: Gated, tunnel: Tunnel) -> None:
    data = bytes(range(253)) * 60_000
    with serving(echo) as server, tunnel(gate, server) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = everything(sock)
        sender.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_what_is_carried_counts_while_it_is_open_and_after(gate: Gated, tunnel: Tunnel) -> None:
    before = gate.call("counts")["blue"]

    def counted() -> dict[str, int]:
        return {key: count - before[key] for key, count in gate.call("counts")["blue"].items()}

    with serving(echo) as server, tunnel(gate, server) as sock:
        sock.sendall(b"12345")
        carried = {"open": 1, "allowed": 1, "denied": 0, "sent": 5, "received": 5}
        wait_for(lambda: counted() == carried)
        assert sock.recv(5) == b"12345"
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""
    wait_for(lambda: counted() == {**carried, "open": 0})
    with gate.connect("blue", "http") as sock:
        sock.sendall(b"CONNECT 203.0.113.9:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 403 " in until(sock, b"\r\n")
    wait_for(lambda: counted() == {**carried, "open": 0, "denied": 1})


def test_the_server_may_speak_first(gate: Gated, tunnel: Tunnel) -> None:
    def polite(client: socket.socket) -> None:
        client.sendall(b"220 hello\r\n")
        assert client.recv(100) == b"QUIT\r\n"

    with serving(polite) as server, tunnel(gate, server) as sock:
        assert until(sock, b"\n") == b"220 hello\r\n"
        sock.sendall(b"QUIT\r\n")
        assert everything(sock) == b""


def test_what_the_client_sends_early_is_not_lost(gate: Gated, tunnel: Tunnel) -> None:
    early = b"early" * 30_000
    with serving(echo) as server, tunnel(gate, server, early) as sock:
        sock.sendall(b" and late")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == early + b" and late"


def test_the_end_of_one_side_leaves_the_other_open(gate: Gated, tunnel: Tunnel) -> None:
    go = threading.Event()

    def late(client: socket.socket) -> None:
        everything(client)
        assert go.wait(origins.DEADLINE)
        client.sendall(b"late answer")

    with serving(late) as server, tunnel(gate, server) as sock:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.clients)
        go.set()
        assert everything(sock) == b"late answer"

    heard: list[bytes] = []

    def brief(client: socket.socket) -> None:
        client.sendall(b"all I say")
        client.shutdown(socket.SHUT_WR)
        heard.append(everything(client))

    with serving(brief) as server, tunnel(gate, server) as sock:
        assert everything(sock) == b"all I say"
        sock.sendall(b"still talking")
        sock.close()
        wait_for(lambda: heard == [b"still talking"])


def test_a_client_that_is_gone_is_a_reset_to_the_server(gate: Gated, tunnel: Tunnel) -> None:
    ended: list[object] = []

    def waiting(client: socket.socket) -> None:
        try:
            ended.append(client.recv(10))
        except ConnectionResetError as error:
            ended.append(error)

    with serving(waiting) as server:
        tunnel(gate, server).close()
        wait_for(lambda: ended)
    assert isinstance(ended[0], ConnectionResetError)


def test_a_reset_of_the_server_ends_the_tunnel(gate: Gated, tunnel: Tunnel) -> None:
    before = len(gate.entries())

    def rude(client: socket.socket) -> None:
        client.recv(1)
        origins.reset(client)

    with serving(rude) as server, tunnel(gate, server) as sock:
        sock.sendall(b"x")
        assert everything(sock) == b""
    wait_for(lambda: gate.entries()[before:][-1:] and gate.entries()[-1]["event"] == "closed")
    assert gate.entries()[-1]["error"] == "Connection reset by peer"


def test_a_slow_reader_slows_the_sender_and_nothing_is_kept(gate: Gated, tunnel: Tunnel) -> None:
    sent = 0

    def endless(client: socket.socket) -> None:
        nonlocal sent
        while True:
            sent += client.send(bytes(1 << 20))

    def memory() -> int:
        with open(f"/proc/{gate.pid}/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096

    before = memory()
    with serving(endless) as server, tunnel(gate, server):
        stalled = -1
        while stalled != sent:
            stalled = sent
            time.sleep(0.2)
        assert memory() < before + (16 << 20)
        assert sent < 64 << 20


@pytest.fixture
def port() -> Iterator[int]:
    """One where nobody listens, nor can meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_socks_says_what_is_wrong(gate: Gated, port: int) -> None:
    def answer(request: bytes) -> tuple[int, bytes]:
        with greeted(gate) as sock:
            sock.sendall(request)
            reply = everything(sock)
            return reply[1], reply

    loopback = socket.inet_aton("127.0.0.1")
    code, whole = answer(socks_request(loopback, port, kind=1))
    assert (code, whole) == (REFUSED, b"\x05\x05\x00\x01" + bytes(6))
    assert answer(socks_request(b"127.0.0.1", port))[0] == REFUSED
    assert answer(socks_request(b"localhost", port))[0] == REFUSED
    assert answer(socks_request(b"forbidden.example", 443))[0] == NOT_ALLOWED
    assert answer(socks_request(socket.inet_aton("10.0.0.1"), 443, kind=1))[0] == NOT_ALLOWED
    assert answer(socks_request(bytes(16), 443, kind=4))[0] == NOT_ALLOWED
    assert answer(socks_request(loopback, port, command=2, kind=1))[0] == 7  # BIND
    assert answer(socks_request(loopback, port, command=3, kind=1))[0] == 7  # UDP ASSOCIATE
    assert answer(b"\x05\x01\x00\x09")[0] == 8
    assert answer(socks_request(b"a..b", 443))[0] == 1
    assert answer(socks_request(b"\xff", 443))[0] == 1
    assert answer(socks_request(loopback, 0, kind=1))[0] == 1
    # What a client sends after it must not take the answer away.
    assert answer(socks_request(b"forbidden.example", 443) + bytes(100_000))[0] == NOT_ALLOWED


def test_socks_takes_no_other_authentication(gate: Gated) -> None:
    for greeting in (b"\x05\x00", b"\x05\x01\x02", b"\x05\x02\x01\x02"):
        with gate.connect("blue", "socks") as sock:
            sock.sendall(greeting)
            assert everything(sock) == b"\x05\xff"


def test_what_is_not_socks_is_hung_up_on(gate: Gated) -> None:
    """A reply would look like the choice of a method (RFC 1928, 3)."""
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x80",
    ):
        with gate.connect("blue", "socks") as sock:
            sock.sendall(data)
            assert everything(sock) == b""


def test_connect_says_what_is_wrong(gate: Gated, port: int) -> None:
    place = f"127.0.0.1:{port}"
    refused = gate.ask("blue", f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    assert refused.startswith(f"HTTP/1.1 502 Serai's gate allows {place} but cannot".encode())
    failure = json.loads(refused.splitlines()[-1])
    assert (failure["kind"], failure["reason"]) == ("refused", "127.0.0.1: Connection refused")
    denied = gate.ask("blue", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert denied.startswith(b"HTTP/1.1 403 Serai's gate denied a.example:443 to session blue")
    assert json.loads(denied.splitlines()[-1]) == {
        "error": "denied",
        "host": "a.example",
        "port": 443,
        "session": "blue",
        "rule": "default deny",
        "reason": "no rule allows a.example:443",
        "ask": "serai policy allow blue a.example:443",
    }
    as_json = gate.ask(
        "blue",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nAccept: application/json\r\n\r\n",
    )
    head, _, body = as_json.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["ask"] == "serai policy allow blue a.example:80"


def test_a_tunnel_is_noted_down_with_its_bytes(gate: Gated, tunnel: Tunnel) -> None:
    before = len(gate.entries())
    with serving(echo) as server, tunnel(gate, server, b"12345") as sock:
        sock.sendall(b"678")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"12345678"
    wait_for(lambda: len(gate.entries()) == before + 2)
    decision, closed = gate.entries()[before:]
    assert decision["address"] == closed["address"] == "127.0.0.1"
    assert (closed["sent"], closed["received"]) == (8, 8)
    assert closed["protocol"] in ("http", "socks")
    assert closed["seconds"] < gate_process.DEADLINE
    assert gate.call("verify")["ok"]
