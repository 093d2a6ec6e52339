"""A hostile session next to another, at a real gate: what it can make the gate do in one turn."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import gate_process
from tests.support.gate_process import Gated, everything
from tests.support.origins import echo, serving
from tests.support.waiting import wait_for

MANY = 40
# Each look at the clock is half a millisecond, and a step looks twice: so a turn has room for few.
# The gate says how many steps the busiest of its turns had.
COUNTED = """
import asyncio, itertools
from serai.gate.connections import share
share.clock = itertools.count(0, 0.0005).__next__
share.SAVINGS = 0
share.QUANTUM = share.ALONE_QUANTUM = QUANTUM
steps = most = 0
end = share.Share.end
def counted(self):
    global steps
    steps += 1
    end(self)
share.Share.end = counted
def tick(loop):
    global steps, most
    if steps > most:
        most = steps
        print("most steps", most, file=sys.stderr, flush=True)
    steps = 0
    loop.call_later(0, tick, loop)
async def serve(paths, serve=server.serve):
    loop = asyncio.get_running_loop()
    loop.call_soon(tick, loop)
    await serve(paths)
server.serve = serve
"""
DENIED = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"


def most_steps(gate: Gated) -> int:
    return max(int(found) for found in re.findall(r"most steps (\d+)", gate.log.read_text()))


@contextlib.contextmanager
def stopped(gate: Gated) -> Iterator[None]:
    """What comes meanwhile is there all at once afterwards."""
    gate.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: stat(gate)[0] == "T")
        yield
    finally:
        gate.process.send_signal(signal.SIGCONT)


def busiest_turn(quantum: str, kind: str) -> int:
    """How many steps a session gets in one turn that has as much to do on many connections."""
    patch = COUNTED.replace("= QUANTUM", f"= {quantum}")
    with serving(echo) as server, gate_process.gate("", patch=patch) as gate, ExitStack() as stack:
        gate.open("blue", "127.0.0.1")
        if kind == "tunnels":
            socks = [stack.enter_context(gate.tunnel("blue", server.place)) for _ in range(MANY)]
            with stopped(gate):
                for sock in socks:
                    sock.sendall(b"x")
            assert [sock.recv(1) for sock in socks] == [b"x"] * MANY
        else:
            with stopped(gate):
                socks = [stack.enter_context(gate.connect("blue")) for _ in range(MANY)]
                for sock in socks:
                    sock.sendall(DENIED)
            assert all(everything(sock).startswith(b"HTTP/1.1 403 ") for sock in socks)
        return most_steps(gate)


@pytest.mark.parametrize("kind", ["tunnels", "requests"])
def test_many_connections_get_no_more_of_a_turn_than_one(kind: str) -> None:
    assert busiest_turn("0.002", kind) <= 12


@pytest.mark.parametrize("kind", ["tunnels", "requests"])
def test_without_shares_each_connection_gets_a_step_of_every_turn(kind: str) -> None:
    assert busiest_turn("1e9", kind) >= MANY


# How much of the gate's time passes while it has a request of red's, in its own words.
CHARGED = """
import time
from serai.gate import gate
from serai.gate.connections import share
share.QUANTUM = QUANTUM or share.QUANTUM
def begin(self, client, session, protocol, begin=gate.Gate._begin):
    start, known = time.thread_time(), set(session.connections)
    begin(self, client, session, protocol)
    def ended(_):
        print(session.name, time.thread_time() - start, file=sys.stderr, flush=True)
    for each in session.connections - known:
        each.task.add_done_callback(ended)
gate.Gate._begin = begin
"""


def polite(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def chunks(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            client.sendall(b"1\r\nx\r\n" * 1000)


def dearer(quantum: str) -> float:
    """How many times its own time a small request costs next to a session with many busy ones."""
    patch = CHARGED.replace("QUANTUM or", f"{quantum} or")
    with (
        serving(polite) as server,
        serving(chunks) as hostile,
        gate_process.gate("", patch=patch) as gate,
        ExitStack() as stack,
    ):

        def request(place: str) -> bytes:
            head = f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
            return head.encode()

        def cost() -> float:
            begin, many = gate.log.stat().st_size, 20
            for _ in range(many):
                assert gate.ask("red", request(server.place)).endswith(b"ok")

            def told() -> list[str]:
                return re.findall(r"^red (\S+)$", gate.log.read_text()[begin:], re.MULTILINE)

            wait_for(lambda: len(told()) == many)
            return statistics.median(map(float, told()))

        for name in ("blue", "red"):
            gate.open(name, "127.0.0.1")
        cost()
        alone = cost()
        readers = threading.Event()
        stack.callback(readers.set)
        socks = [stack.enter_context(gate.connect("blue")) for _ in range(MANY)]
        for sock in socks:
            sock.sendall(request(hostile.place))
        for sock in socks:
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            threading.Thread(target=swallow, args=(sock, readers)).start()
        with stopped(gate):  # until it has more to do than it can meanwhile
            wait_for(lambda: not select.select([], hostile.clients, [], 0)[1])
        return cost() / alone


def swallow(sock: socket.socket, end: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not end.is_set() and sock.recv(65536):
            pass


def test_a_session_whose_connections_are_busy_can_open_another() -> None:
    end = threading.Event()
    with serving(polite) as server, serving(chunks) as busy, ExitStack() as stack:
        gate = stack.enter_context(gate_process.gate())
        gate.open("blue", "127.0.0.1")
        stack.callback(end.set)
        for place in [busy.place] * 8 + [server.place]:
            sock = stack.enter_context(gate.connect("blue"))
            sock.sendall(f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            threading.Thread(target=swallow, args=(sock, end)).start()


def test_a_neighbours_request_costs_the_gate_little_more_time() -> None:
    # Its own server answers late on a busy host, and the neighbour has the gate meanwhile.
    assert any(dearer("0") < 5 for _ in range(5))


def test_with_long_turns_it_costs_much_more() -> None:
    # On a busy host the neighbour's servers may be too slow to keep the gate busy.
    assert any(dearer("0.005") > 10 for _ in range(5))


def head(lines: int, *more: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *more, *["a: b"] * lines, "", ""]).encode()


INTERIM = b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n"
OK = head(0, "Content-Length: 2") + b"ok"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (INTERIM * 11 + OK, b"over 10 interim responses"),
        (head(300), b"head has more than 256 headers"),
        (b"HTTP/1.1 103 x\r\n" + b"a:\r\n" * 16_000 + b"\r\n", b"more than 256 headers"),
        (head(1, "a: " + "b" * 70_000), b"head is larger than 65536 bytes"),
        (head(0, "Content-Length: " + "9" * 5000), b"502 "),
        (head(0, "Content-Length: 0", "Connection: " + "," * 64), b"more than 64 elements"),
    ],
)
def test_what_an_origin_server_makes_the_gate_read_is_bounded(
    answer: bytes, why: bytes, version: str
) -> None:
    def hostile(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(answer)
        everything(client)

    with serving(hostile) as server, gate_process.gate() as gate:
        gate.open("blue", "127.0.0.1")
        request = f"GET http://{server.place}/ HTTP/{version}\r\nHost: {server.place}\r\n\r\n"
        said = gate.ask("blue", request.encode())
        said = said.replace(INTERIM, b"")
        assert said.startswith(b"HTTP/1.1 502 ") and why in said
        wait_for(lambda: gate.entries(event="closed"))
        assert gate.entries(event="closed")[-1]["error"]


CHUNKED = head(0, "Transfer-Encoding: chunked")
BLANKS = b" " * 60_000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\na:" + BLANKS + b"\x0b\r\n\r\n",
        CHUNKED + b"1;" + BLANKS + b"\nx\r\na\r\n",
        CHUNKED + b"0\r\na:" + BLANKS + b"\x0b\r\n\r\n",
        CHUNKED + b"0\r\n" + b"a:\r\n" * 16_000 + b"\r\n",
    ],
)
def test_no_line_of_an_origin_servers_keeps_the_gate_from_others(answer: bytes) -> None:
    def hostile(client: socket.socket) -> None:
        client.recv(65536)
        with contextlib.suppress(OSError):
            client.sendall(answer)
        everything(client)

    with serving(hostile) as server, gate_process.gate() as gate:
        gate.open("blue", "127.0.0.1")
        request = f"GET http://{server.place}/ HTTP/1.1\r\nHost: {server.place}\r\n\r\n"
        before = used(gate)
        gate.ask("blue", request.encode())
        assert used(gate) - before < 1  # 10 s, as h11 itself reads the first


def used(gate: Gated) -> float:
    """Seconds of processor time."""
    fields = stat(gate)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stat(gate: Gated) -> list[str]:
    """What proc(5) says of its process, from the state on."""
    return Path(f"/proc/{gate.pid}/stat").read_text().rpartition(")")[2].split()


def test_what_is_just_within_bounds_passes() -> None:
    def server_of(answer: bytes) -> bytes:
        def polite(client: socket.socket) -> None:
            client.recv(65536)
            client.sendall(answer)

        with serving(polite) as server:
            request = f"GET http://{server.place}/ HTTP/1.1\r\nHost: {server.place}\r\n"
            return gate.ask("blue", f"{request}Connection: close\r\n\r\n".encode())

    with gate_process.gate() as gate:
        gate.open("blue", "127.0.0.1")
        assert server_of(INTERIM * 10 + OK).endswith(b"\r\n\r\nok")
        assert server_of(INTERIM * 10 + OK).count(INTERIM) == 10
        assert server_of(head(250, "Content-Length: 2") + b"ok").endswith(b"\r\n\r\nok")
        options = "Connection: close" + ", x" * 60
        assert server_of(head(0, "Content-Length: 2", options) + b"ok").endswith(b"\r\n\r\nok")


def test_a_long_list_in_a_request_is_refused() -> None:
    request = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: {}\r\n\r\n"
    with gate_process.gate() as gate:
        gate.open("blue")
        for options, status in ((", ".join(["close"] * 64), 403), ("," * 60_000, 431)):
            said = gate.ask("blue", request.format(options).encode())
            assert said.startswith(b"HTTP/1.1 %d " % status)


OWN = "10.9.8.7"
# A machine with a private address, which is all there is.
PRIVATE = f'ip link set lo up; ip address add {OWN}/24 dev lo; exec "$@"'


def test_a_rule_for_a_network_does_not_open_the_vms_own_addresses() -> None:
    prefix = ["unshare", "--net", "sh", "-ec", PRIVATE, "sh"]
    with gate_process.gate("", prefix) as gate:

        def rule_for(place: str, *allow: str) -> str:
            policy = gate_process.policy(*allow)
            [verdict] = gate.call("explain", policy=policy, target=place)["verdicts"]
            return str(verdict["rule"])

        for network in ("10.0.0.0/8", "10.9.8.6/31", "10.9.8.0/24:22"):
            assert rule_for(f"{OWN}:22", network) == f"own address {OWN}"
        assert rule_for("127.0.0.2:22", "127.0.0.0/8") == "own address 127.0.0.2"
        assert rule_for("[::1]:22", "::1/128", "::/3") == "allow ::1"
        # The counterparts: another address of that network, and a rule for this very one.
        assert rule_for("10.9.8.6:22", "10.9.8.6/31") == "allow 10.9.8.6/31"
        for exact in (OWN, f"{OWN}/32", f"{OWN}:22", f"::ffff:{OWN}"):
            assert rule_for(f"{OWN}:22", "10.0.0.0/8", exact).startswith("allow ")
        assert rule_for(f"{OWN}:23", "10.0.0.0/8", f"{OWN}:22") == f"own address {OWN}"


def test_a_connection_is_cut_when_its_own_rule_becomes_a_networks() -> None:
    with serving(echo) as server, gate_process.gate() as gate:
        gate.open("blue", "127.0.0.1")
        with gate.tunnel("blue", server.place) as sock:
            assert gate.change("blue", "127.0.0.0/8", cut=True) == 1
            assert everything(sock) == b""
