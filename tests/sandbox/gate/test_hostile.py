"""Clients and servers that say anything at all, and leave at any time: the gate stays as it is."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support import gate_process
from tests.support.gate_process import Gated
from tests.support.origins import Origin, serving
from tests.support.socks import socks_request
from tests.support.waiting import wait_for

ROUNDS = 60
CLIENTS = 8

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\nConnection: close, X\r\nX: y\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw",
    b"HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\na\r\n0\r\n\r\n",
]


def requests(place: str) -> list[bytes]:
    url, host = f"http://{place}/".encode(), f"Host: {place}\r\n".encode()
    return [
        b"GET %s HTTP/1.1\r\n%s\r\n" % (url, host) * 3,
        b"HEAD %s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (url, host),
        b"GET %s HTTP/1.0\r\n\r\n" % url,
        b"POST %s HTTP/1.1\r\n%sContent-Length: 9\r\n\r\nsome body" % (url, host),
        b"POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
        % (url, host),
        b"GET %s HTTP/1.1\r\n%sConnection: upgrade\r\nUpgrade: x\r\n\r\nraw" % (url, host),
        b"POST %s HTTP/1.1\r\n%sExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" % (url, host),
        b"CONNECT %s HTTP/1.1\r\n%s\r\nGET / HTTP/1.1\r\n\r\n" % (place.encode(), host),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` as it is, or with something cut off, changed, doubled or put in."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice(
        [
            data,
            data,
            data[:at],
            data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:],
            data[:at] + rng.choice([b"\r\n", b"\n", b" ", b"\0", b"0", b":"]) + data[at:],
            data[:at] + data[to:],
            data[:to] + data[at:],
        ]
    )


def say(sock: socket.socket, data: bytes, rng: random.Random) -> None:
    """All of it, in pieces, and then perhaps wait for an answer."""
    sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        while data:
            count = rng.choice([1, 7, 50, 1000])
            sock.sendall(data[:count])
            data = data[count:]
        if rng.random() < 0.5:
            sock.shutdown(rng.choice([socket.SHUT_WR, socket.SHUT_RD]))
        if rng.random() < 0.7:
            while sock.recv(65536):
                pass


def unpredictable(client: socket.socket) -> None:
    """A server that says what the first bytes of its port make it say."""
    with contextlib.suppress(OSError):  # it is gone already
        rng = random.Random(client.getpeername()[1])
        if rng.random() < 0.7:
            client.recv(65536)
        say(client, mutated(rng.choice(RESPONSES), rng), rng)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    settings = "[limits]\ndenials_burst = 100000\n[timeouts]\nheader = 0.5\nidle = 2\n"
    with gate_process.gate(settings) as running:
        running.open("blue", "127.0.0.1")
        yield running


@pytest.fixture
def server() -> Iterator[Origin]:
    with serving(unpredictable) as running:
        yield running


def attack(gate: Gated, messages: list[bytes], protocol: str) -> None:
    """Many clients at once, each with another sequence of messages."""

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(ROUNDS):
            with gate.connect("blue", protocol) as sock:
                say(sock, mutated(rng.choice(messages), rng), rng)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * gate_process.DEADLINE)
    # The log of the gate is looked through for tracebacks when it ends.
    wait_for(lambda: gate.call("status")["blue"] == 0)
    wait_for(lambda: gate.descriptors() <= 16)
    assert gate.call("verify")["ok"]


def test_http_that_was_changed_at_random(gate: Gated, server: Origin) -> None:
    attack(gate, requests(server.place), "http")


def test_a_server_writes_no_novels_into_the_log(gate: Gated) -> None:
    def verbose(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"x" * 60_000 + b"\r\n\r\n")

    with serving(verbose) as server:
        answer = gate.ask("blue", requests(server.place)[1])
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert len(answer) < 2000
    wait_for(lambda: gate.entries()[-1]["event"] == "closed")
    assert 0 < len(gate.entries()[-1]["error"]) < 300


def test_socks_that_was_changed_at_random(gate: Gated, server: Origin) -> None:
    loopback = socket.inet_aton("127.0.0.1")
    attack(
        gate,
        [
            b"\x05\x01\x00" + socks_request(loopback, server.port, kind=1) + b"data",
            b"\x05\x02\x00\x01" + socks_request(b"127.0.0.1", server.port),
            b"\x05\x01\x00" + socks_request(bytes(16), server.port, kind=4),
        ],
        "socks",
    )


def test_the_control_socket_takes_no_nonsense(gate: Gated) -> None:
    for line in (
        b" x",
        b"{}",
        b"[]",
        b"1",
        b'{"id":1,"method":"open","params":7}',
        b"\xff",
        b"{" * 99,
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(gate_process.DEADLINE)
            sock.connect(str(gate.paths.gate_control))
            sock.sendall(line + b"\n")
            assert b'"error"' in sock.recv(65536)
    assert gate.call("status") == {"blue": 0}
