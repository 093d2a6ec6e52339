"""Limits and timeouts: what one session does costs the others nothing, and nothing stays open."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serai.common import proc
from tests.support import gate_process, origins
from tests.support.gate_process import Gated, everything, until
from tests.support.origins import Origin, echo, serving
from tests.support.waiting import wait_for

MANY = 1000


@pytest.fixture
def server() -> Iterator[Origin]:
    with serving(echo) as running:
        yield running


def test_a_session_has_so_many_connections_and_others_theirs(server: Origin) -> None:
    with gate_process.gate("[limits]\nconnections = 20\n") as gate, ExitStack() as stack:
        gate.open("blue", "127.0.0.1")
        gate.open("red", "127.0.0.1")
        tunnels = [stack.enter_context(gate.tunnel("blue", server.place)) for _ in range(20)]
        for _ in range(3):
            answer = gate.ask("blue", b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 Session blue has 20 connections open already.")
        with gate.connect("blue", "socks") as sock:
            assert everything(sock) == b""
        stack.enter_context(gate.tunnel("red", server.place)).close()
        tunnels.pop().close()
        wait_for(lambda: gate.call("status")["blue"] == 19)
        stack.enter_context(gate.tunnel("blue", server.place))


def test_denials_are_slowed_down_for_who_causes_them(server: Origin) -> None:
    denied = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
    with gate_process.gate("[limits]\ndenials_per_second = 10\ndenials_burst = 5\n") as gate:
        gate.open("blue", "127.0.0.1")
        gate.open("red")
        start = time.monotonic()
        for _ in range(15):
            assert gate.ask("blue", denied).startswith(b"HTTP/1.1 403 ")
        # Five at once and ten more at ten a second.
        assert time.monotonic() - start > 0.8
        assert gate.ask("red", denied).startswith(b"HTTP/1.1 403 ")
        gate.tunnel("blue", server.place).close()


def test_two_hundred_at_once_are_all_served() -> None:
    failed: list[object] = []
    ready = threading.Barrier(200)

    def client(gate: Gated, place: str) -> None:
        try:
            ready.wait(gate_process.DEADLINE)
            request = f"GET http://{place}/204 HTTP/1.1\r\nHost: {place}\r\n\r\n"
            with gate.connect("blue") as sock:
                for _ in range(3):
                    sock.sendall(request.encode())
                    assert until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        except BaseException as error:
            failed.append(error)

    with gate_process.gate() as gate, serving(origins.web) as web:
        gate.open("blue", "127.0.0.1")
        threads = [threading.Thread(target=client, args=(gate, web.place)) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(gate_process.DEADLINE)
        assert failed == []
        wait_for(lambda: gate.call("status")["blue"] == 0)
        assert len(gate.entries(event="decision", allowed=True)) == 600


# With each SIGUSR1 five seconds pass for the gate: on a busy host those of a clock would decide.
PASSING = """
import asyncio, signal, time
passed = 0
def later(*_):
    global passed
    passed += 5
signal.signal(signal.SIGUSR1, later)
asyncio.BaseEventLoop.time = lambda self: time.monotonic() + passed
"""


def test_idle_connections_end_and_busy_ones_do_not(server: Origin) -> None:
    """Also one is busy that only asks: answers without a body have no bytes to count."""
    with (
        gate_process.gate("[timeouts]\nidle = 60\n", patch=PASSING) as gate,
        serving(origins.web) as web,
        gate_tunnels(gate, server.place, 2) as (idle, busy),
        gate.connect("blue") as silent,
        gate.connect("blue") as asking,
    ):
        request = f"GET http://{web.place}/204 HTTP/1.1\r\nHost: {web.place}\r\n\r\n"

        def ended() -> object:
            gate.process.send_signal(signal.SIGUSR1)
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"
            asking.sendall(request.encode())
            assert until(asking, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")
            return gate.entries(event="closed", error="nothing came for 60 s")

        wait_for(ended)
        assert everything(idle) == b""
        assert everything(silent) == b""
        for _ in range(3):  # in the next sweep, too
            ended()


@contextlib.contextmanager
def gate_tunnels(gate: Gated, place: str, count: int) -> Iterator[list[socket.socket]]:
    gate.open("blue", "127.0.0.1")
    with ExitStack() as stack:
        yield [stack.enter_context(gate.tunnel("blue", place)) for _ in range(count)]


def test_half_closed_connections_and_all_others_end_too() -> None:
    def deaf(client: socket.socket) -> None:
        everything(client)
        threading.Event().wait(0.01)
        client.recv(1)
        while not over.wait(0.01):
            pass

    over = threading.Event()
    settings = "[timeouts]\nhalf_closed = 20\ntotal = 60\n"
    with (
        gate_process.gate(settings, patch=PASSING) as gate,
        serving(deaf) as server,
        gate_tunnels(gate, server.place, 2) as (half, whole),
    ):

        def ended() -> object:
            gate.process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(ConnectionError):
                whole.sendall(b"x")
            return gate.entries(event="closed", error="it was open for 60 s")

        half.shutdown(socket.SHUT_WR)
        wait_for(ended)
        assert everything(half) == b""
        over.set()
        assert gate.entries(event="closed", error="nothing came for 20 s")


# The last argument is the folder that the gate is below.
SMALL_DISK = """
for root; do :; done
mount -t tmpfs -o size=64k none "$root/run/serai-gate/audit"
exec "$@"
"""


def test_what_cannot_be_noted_down_is_not_done() -> None:
    """The disk of the audit log is full: nothing goes out, and afterwards all is as before."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    small = [*unshare, "sh", "-ec", SMALL_DISK, "sh"]
    with serving(echo) as server, gate_process.gate("", small) as gate:
        gate.open("blue", "127.0.0.1")
        ballast = Path(f"/proc/{gate.pid}/root{gate.paths.audit}") / "ballast"
        gate.tunnel("blue", server.place).close()
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        # What is left of the log's last page.
        served = 1
        while not (answer := connected(gate, server.place)).startswith(b"HTTP/1.1 502 "):
            assert answer.startswith(b"HTTP/1.1 200 ")
            served += 1
        assert b"the audit log cannot be written" in answer
        assert connected(gate, server.place).startswith(b"HTTP/1.1 502 ")
        with gate.connect("blue", "socks") as sock:
            place = socket.inet_aton("127.0.0.1") + server.port.to_bytes(2, "big")
            sock.sendall(b"\x05\x01\x00\x05\x01\x00\x01" + place)
            assert everything(sock)[2:4] == b"\x05\x01"
        # The server takes connections in their order: behind this one none is left.
        socket.create_connection(("127.0.0.1", server.port)).close()
        wait_for(lambda: len(server.clients) > served)
        assert len(server.clients) == served + 1
        ballast.unlink()
        gate.tunnel("blue", server.place).close()
        report = gate.call("verify")
        assert report["ok"], report


def connected(gate: Gated, place: str) -> bytes:
    """The first that is answered to a CONNECT."""
    with gate.connect("blue") as sock:
        sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        return sock.recv(65536)


def test_a_thousand_idle_tunnels_cost_little() -> None:
    """The figure is what is asked for; the bound is what would be a leak."""

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=MANY)
    try:
        limits = f"[limits]\nconnections = {MANY}\n"
        with gate_process.gate(limits) as gate, ExitStack() as stack:
            gate.open("blue", "127.0.0.1")
            stack.enter_context(listener)
            place = f"127.0.0.1:{listener.getsockname()[1]}"
            before = proc.pss(gate.pid)
            for _ in range(MANY):
                stack.enter_context(gate.tunnel("blue", place))
                stack.enter_context(listener.accept()[0])
            after = proc.pss(gate.pid)
            print(f"{MANY} idle tunnels: {before >> 10} KiB before, {after >> 10} KiB with them")
            assert after < 60 << 20
            stack.close()
            wait_for(lambda: gate.call("status")["blue"] == 0)
            wait_for(lambda: gate.descriptors() <= 16)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_gate_without_descriptors_goes_on_when_it_has_some_again(server: Origin) -> None:
    with gate_process.gate("", ["prlimit", "--nofile=40:40"]) as gate, ExitStack() as stack:
        gate.open("blue", "127.0.0.1")
        waiting = [stack.enter_context(gate.connect("blue")) for _ in range(60)]
        wait_for(lambda: "is not accepted" in gate.log.read_text())
        # A way out would take one more.
        connect = f"CONNECT {server.place} HTTP/1.1\r\nHost: {server.place}\r\n\r\n"
        waiting[0].sendall(connect.encode())
        assert b"Too many open files" in everything(waiting[0])
        assert server.clients == []
        for sock in waiting:
            sock.close()
        wait_for(lambda: gate.descriptors() <= 16)
        gate.tunnel("blue", server.place).close()
