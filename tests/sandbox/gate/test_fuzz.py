"""Clients and origin servers that say anything at all: the gate stays as it is.

What the gate passes on has one meaning whatever it was made of: the origin servers here, and the
clients, read it strictly.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import h11
import pytest

from tests.support import gate_process, request_heads
from tests.support.fuzzing import ODD, SEED, Record, Watched, changed, fuzz
from tests.support.gate_process import Gated
from tests.support.origins import read_head, respond, serving
from tests.support.socks import socks_request
from tests.support.waiting import wait_for

CLIENTS = 4
LOOKUPS = 64  # threads that look names up, once there are names
SETTINGS = """
[limits]
denials_burst = 1000000
denials_per_second = 1000000
[timeouts]
header = 0.5
idle = 2
"""


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    with gate_process.gate(SETTINGS) as running:
        running.open("blue", "127.0.0.1")
        yield running


def attack(gate: Gated, case: Callable[[random.Random], object], record: Record) -> None:
    def settle() -> None:
        wait_for(lambda: gate.call("status")["blue"] == 0, gate_process.DEADLINE)
        assert gate.call("verify")["ok"]

    watched = Watched(gate.pid, gate.log, threads=LOOKUPS, descriptors=2)
    fuzz(case, watched, record=record, workers=CLIENTS, settle=settle)


def say(sock: socket.socket, data: bytes, dice: random.Random) -> bytes:
    """All of it, in pieces; what is answered in a moment."""
    sock.settimeout(0.05)
    answer = b""
    with contextlib.suppress(OSError):
        while data:
            count = dice.choice([1, 7, 50, 1000, 1 << 20])
            sock.sendall(data[:count])
            data = data[count:]
        if dice.random() < 0.5:
            sock.shutdown(dice.choice([socket.SHUT_WR, socket.SHUT_RD]))
        if dice.random() < 0.7:
            while more := sock.recv(65536):
                answer += more
    return answer


def of_bytes(gate: Gated, protocol: str, messages: list[bytes]) -> Callable[[random.Random], None]:
    def case(dice: random.Random) -> None:
        data = b"".join(
            changed(dice, dice.choice(messages), messages) for _ in range(dice.choice((1, 1, 2)))
        )
        with gate.connect("blue", protocol) as sock:
            say(sock, data, dice)

    return case


# --- requests


def strict(client: socket.socket) -> None:
    """An origin server to which anything but one whole request, or half of one, is a fault."""
    stream = client.makefile("rb")
    head = read_head(stream)
    headers = {name.lower(): value for name, value in head[1]}
    assert len(headers) == len({name.lower() for name, _ in head[1]} - {""}), head
    assert not {"content-length", "transfer-encoding"} <= headers.keys(), head
    names = [name.lower() for name, _ in head[1]]
    for once in ("host", "content-length", "transfer-encoding"):
        assert names.count(once) <= 1, head
    _body(stream, headers)
    respond(client, "200 OK", "Content-Length: 2", body=b"ok")
    assert (more := stream.read()) == b"", f"a second request: {head} {more!r}"


def _body(stream: BinaryIO, headers: dict[str, str]) -> None:
    if "transfer-encoding" not in headers:
        _skip(stream, int(headers.get("content-length", "0")))
        return
    while True:
        if not (line := stream.readline()).endswith(b"\n"):
            raise EOFError
        assert re.fullmatch(rb"[0-9a-fA-F]+\r\n", line), line
        size = int(line, 16)
        _skip(stream, size)
        if len(end := stream.read(2)) < 2:
            raise EOFError
        assert end == b"\r\n", end
        if not size:
            return


def _skip(stream: BinaryIO, length: int) -> None:
    while length:
        if not (piece := stream.read(min(length, 1 << 16))):
            raise EOFError
        length -= len(piece)


def requests(place: str) -> list[bytes]:
    """Heads that programs send and that are refused, to ``place``, some with a body."""
    heads = [*request_heads.REFUSED.values()]
    heads += [request_heads.head(*lines) for lines in request_heads.CLIENTS.values()]
    heads += [request_heads.get("Connection: upgrade", "Upgrade: x") + b"raw"]
    heads += [request_heads.post("Content-Length: 9") + b"some body"]
    chunked = request_heads.post("Transfer-Encoding: chunked")
    heads += [chunked + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", chunked + b"ffffffffffffffffff\r\n"]
    heads += [request_heads.post("Expect: 100-continue", "Content-Length: 3") + b"abc"]
    heads += [request_heads.get() * 3, request_heads.post("Content-Length: 2") + b"ab" * 2]
    # A tunnel's bytes are anybody's: nothing may be said about them.
    plain = [each for each in heads if b"connect " not in each.lower()]
    place_at = re.compile(rb"example\.com(:[0-9]+)?")
    return [place_at.sub(place.encode(), each) for each in plain]


def test_fuzz_http(gate: Gated, record_property: Record) -> None:
    """Requests and tunnels at the gate, of any bytes."""
    with serving(strict) as server, serving(_anything) as other:
        place = other.place.encode()
        tunnel = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (place, place)
        tunnels = of_bytes(gate, "http", [tunnel, tunnel + b"GET / HTTP/1.1\r\n\r\n", tunnel * 2])
        plain = of_bytes(gate, "http", requests(server.place))

        def case(dice: random.Random) -> None:
            (tunnels if dice.random() < 0.2 else plain)(dice)

        attack(gate, case, record_property)


def _anything(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            client.sendall(data)


# --- SOCKS


def test_fuzz_socks(gate: Gated, record_property: Record) -> None:
    """SOCKS at the gate, of any bytes."""
    with serving(_anything) as server:
        loopback, port = socket.inet_aton("127.0.0.1"), server.port
        hello = b"\x05\x01\x00"
        messages = [
            hello + socks_request(loopback, port, kind=1) + b"data",
            b"\x05\x02\x00\x01" + socks_request(b"127.0.0.1", port),
            hello + socks_request(bytes(16), port, kind=4),
            *(hello + socks_request(loopback, port, command=2 + n, kind=1) for n in range(2)),
            hello + socks_request(b"a" * 255, port),
            b"\x05\xff" + bytes(range(255)),
            b"\x04\x01\x00\x50" + loopback + b"me\0",
            b"GET / HTTP/1.1\r\n\r\n",
        ]
        attack(gate, of_bytes(gate, "socks", messages), record_property)


# --- responses

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\nConnection: close, X\r\nX: y\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\n\r\nok",
    b"HTTP/1.1 103 Hints\r\n\r\n" * 20,
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw",
    b"HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 5000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 4400 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: " + b"," * 60000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 500,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 60000 + b"\r\na\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    b"HTTP/0.9 x\r\n\r\n",
    b"220 mail.example.com ESMTP\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),
]


def unpredictable(client: socket.socket) -> None:
    """A server that says what the path makes it say, of which the seed is a part."""
    found = client.makefile("rb").readline().split(b" ")
    dice = random.Random(f"{SEED}:{found[1].decode()}")
    say(client, changed(dice, dice.choice(RESPONSES), [*RESPONSES, *ODD]), dice)


def test_fuzz_origin(gate: Gated, record_property: Record) -> None:
    """Responses of origin servers, of any bytes."""
    with serving(unpredictable) as server:

        def case(dice: random.Random) -> None:
            path, method = dice.randrange(1 << 60), dice.choice(("GET", "HEAD", "POST"))
            more = "Connection: upgrade\r\nUpgrade: x\r\n" if dice.random() < 0.2 else ""
            line = f"{method} http://{server.place}/{path} HTTP/1.1\r\nHost: {server.place}\r\n"
            body = "Content-Length: 0\r\n" if method == "POST" else ""
            with gate.connect("blue") as sock:
                sock.sendall(f"{line}{body}{more}\r\n".encode())
                sock.settimeout(1.0)
                answer = b""
                with contextlib.suppress(OSError):
                    while data := sock.recv(65536):
                        answer += data
                        if len(answer) > 1 << 20 or _complete(method, answer):
                            break
            has_one_meaning(method, answer, upgrade=bool(more))

        attack(gate, case, record_property)


def read(method: str, answer: bytes) -> tuple[h11.Connection, list[Any]]:
    """What h11 finds in an answer."""
    ours = h11.Connection(h11.CLIENT)
    ours.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    ours.send(h11.EndOfMessage())
    ours.receive_data(answer)
    events = []
    while (event := ours.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            break
    return ours, events


def _complete(method: str, answer: bytes) -> bool:
    with contextlib.suppress(h11.RemoteProtocolError):
        return any(isinstance(each, h11.EndOfMessage) for each in read(method, answer)[1])
    return True


def has_one_meaning(method: str, answer: bytes, *, upgrade: bool) -> None:
    """An answer is one response, whole or cut off, with one framing and nothing behind it."""
    if not answer or (upgrade and b"HTTP/1.1 101 " in answer):
        return
    ours, events = read(method, answer)
    finals = [event for event in events if isinstance(event, h11.Response)]
    assert len(finals) <= 1, answer
    for response in finals:
        names = [name for name, _ in response.headers]
        framing = names.count(b"content-length") + names.count(b"transfer-encoding")
        assert framing <= 1, answer
    if events and isinstance(events[-1], h11.EndOfMessage):
        assert ours.trailing_data[0] == b"", answer
