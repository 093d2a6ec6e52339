"""Policies while the gate runs: changed, cut, read again; and a gate that is killed under load."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from serai.common.errors import SeraiError
from tests.support import gate_process, origins
from tests.support.gate_process import Gated, everything
from tests.support.origins import Origin, echo, serving
from tests.support.waiting import wait_for


@pytest.fixture
def gate() -> Iterator[Gated]:
    with gate_process.gate() as running:
        yield running


@pytest.fixture
def server() -> Iterator[Origin]:
    with serving(echo) as running:
        yield running


def alive(sock: socket.socket) -> bool:
    """Whether a tunnel to an echo still carries."""
    try:
        sock.sendall(b"x")
        return sock.recv(1) == b"x"
    except ConnectionError:
        return False


def status(gate: Gated, name: str, place: str) -> int:
    """What a CONNECT is answered."""
    with gate.connect(name) as sock:
        sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        return int(sock.recv(12).split(b" ")[1])


def test_a_change_holds_for_the_next_connection(gate: Gated, server: Origin) -> None:
    gate.open("blue")
    assert status(gate, "blue", server.place) == 403
    gate.change("blue", "127.0.0.1")
    with gate.tunnel("blue", server.place) as old:
        assert gate.change("blue", "127.0.0.1:1") == 0
        assert status(gate, "blue", server.place) == 403
        assert alive(old)
    gate.change("blue", "127.0.0.1", deny=["127.0.0.0/8"])
    assert status(gate, "blue", server.place) == 403


def test_cut_ends_what_is_forbidden_now_and_nothing_else(gate: Gated, server: Origin) -> None:
    gate.open("blue", "127.0.0.1", "localhost")
    gate.open("red", "127.0.0.1")
    with serving(echo) as other, ExitStack() as stack:
        first = stack.enter_context(gate.tunnel("blue", server.place))
        named = stack.enter_context(gate.tunnel("blue", f"localhost:{server.port}"))
        second = stack.enter_context(gate.tunnel("blue", other.place))
        idle = stack.enter_context(gate.connect("blue"))
        foreign = stack.enter_context(gate.tunnel("red", server.place))
        deny = [f"127.0.0.0/8:{server.port}"]
        assert gate.change("blue", "127.0.0.1", "localhost", deny=deny, cut=True) == 2
        assert everything(first) == b""
        assert everything(named) == b""
        assert all(alive(sock) for sock in (second, foreign))
        idle.sendall(f"CONNECT {other.place} HTTP/1.1\r\nHost: {other.place}\r\n\r\n".encode())
        assert idle.recv(12) == b"HTTP/1.1 200"
    cut = gate.entries(event="closed", error="the policy forbids it now")
    assert [entry["session"] for entry in cut] == ["blue", "blue"]


def test_a_change_while_a_connection_is_made_holds_for_it(gate: Gated, server: Origin) -> None:
    """The parent proxy is slow, and meanwhile the policy forbids what was allowed."""
    go = threading.Event()

    def slow(client: socket.socket) -> None:
        client.recv(65536)
        assert go.wait(origins.DEADLINE)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert everything(client) == b""

    with serving(slow) as parent:
        settings = f'[upstream]\nkind = "http"\naddress = "{parent.place}"\n'
        gate.paths.gate_settings.write_text(settings)
        gate.open("blue", "*.test")
        gate.restart(signal.SIGTERM)
        with gate.connect("blue") as sock:
            sock.sendall(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n")
            wait_for(lambda: parent.clients)
            assert gate.change("blue", "b.test") == 0
            go.set()
            assert everything(sock).startswith(b"HTTP/1.1 403 ")
        # With cut there is nothing to wait for.
        go.clear()
        gate.change("blue", "a.test")
        with gate.connect("blue") as sock:
            sock.sendall(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n")
            wait_for(lambda: len(parent.clients) == 2)
            assert gate.change("blue", "b.test", cut=True) == 1
            assert everything(sock) == b""
        go.set()


def test_profiles_are_read_again_on_a_signal(gate: Gated, server: Origin) -> None:
    profile = gate.paths.profiles / "web.toml"
    profile.write_text('allow = ["127.0.0.1"]\n')
    with pytest.raises(SeraiError, match="web"):
        gate.open("blue", profile="web")
    reload(gate, "read again")
    gate.open("blue", profile="web")
    gate.open("red", deny=["127.0.0.1"], profile="web")
    assert status(gate, "blue", server.place) == 200
    assert status(gate, "red", server.place) == 403
    profile.write_text('allow = ["10.0.0.1"]\n')
    assert status(gate, "blue", server.place) == 200
    reload(gate, "read again")
    assert status(gate, "blue", server.place) == 403
    profile.write_text('allow = ["127.0.0.1"]\n')
    reload(gate, "read again")

    for broken in ('allow = ["a b"]\n', "allow = [", 'alow = ["*"]\n'):
        profile.write_text(broken)
        reload(gate, "stay as they were")
        assert status(gate, "blue", server.place) == 200


def test_a_session_whose_profile_is_withdrawn_reaches_nothing(gate: Gated, server: Origin) -> None:
    profile = gate.paths.profiles / "web.toml"
    profile.write_text('allow = ["127.0.0.1"]\n')
    reload(gate, "read again")
    gate.open("blue", "127.0.0.1", profile="web")
    gate.open("red", "127.0.0.1")
    with gate.tunnel("blue", server.place) as blue, gate.tunnel("red", server.place) as red:
        profile.unlink()
        reload(gate, "session blue reaches nothing: there is no profile 'web'")
        assert everything(blue) == b""
        assert alive(red)
    for _ in range(2):
        assert status(gate, "blue", server.place) == 403
        assert status(gate, "red", server.place) == 200
        gate.restart(signal.SIGKILL)
    gate.open("blue", "127.0.0.1", profile="web")  # as sessiond does when it starts
    with pytest.raises(SeraiError, match="no profile 'web'"):
        gate.open("green", profile="web")
    profile.write_text('allow = ["127.0.0.1"]\n')
    reload(gate, "read again")
    assert status(gate, "blue", server.place) == 200


def reload(gate: Gated, said: str) -> None:
    """SIGHUP, and wait until the gate has said what came of it."""
    before = gate.log.read_text().count(said)
    gate.process.send_signal(signal.SIGHUP)
    wait_for(lambda: gate.log.read_text().count(said) > before)


def test_an_ended_session_has_no_way_out(gate: Gated, server: Origin) -> None:
    gate.open("blue", "127.0.0.1")
    gate.open("red", "127.0.0.1")
    with gate.tunnel("blue", server.place) as blue, gate.tunnel("red", server.place) as red:
        gate.call("close", name="blue")
        assert everything(blue) == b""
        assert alive(red)
        assert list(gate.paths.gate("blue").iterdir()) == []
        gate.call("keep", names=["blue"])
        assert everything(red) == b""
    assert gate.call("status") == {}
    gate.restart(signal.SIGKILL)
    assert gate.call("status") == {}


def test_a_session_whose_folder_is_gone_is_forgotten(gate: Gated) -> None:
    gate.open("blue", "127.0.0.1")
    gate.process.kill()
    gate.process.wait()
    for file in gate.paths.gate("blue").iterdir():
        file.unlink()
    gate.paths.gate("blue").rmdir()
    gate.restart(signal.SIGKILL)
    assert gate.call("status") == {}
    assert list(gate.paths.gate_state.iterdir()) == []


class Load:
    """Clients that each make one connection after another."""

    def __init__(self, gate: Gated, place: str, clients: int) -> None:
        self.served = 0
        self.wrong: list[bytes] = []
        self._gate = gate
        self._place = place
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(gate_process.DEADLINE)

    def _run(self) -> None:
        head = f"CONNECT {self._place} HTTP/1.1\r\nHost: {self._place}\r\n\r\n".encode()
        while not self._end.is_set():
            try:
                with self._gate.connect("blue") as sock:
                    sock.sendall(head)
                    answer = sock.recv(65536)
                    if answer and not answer.startswith(b"HTTP/1.1 200 "):
                        self.wrong.append(answer)
                    elif answer and alive(sock):
                        self.served += 1
            except OSError:
                time.sleep(0.01)  # nobody is there at the moment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_gate_may_be_killed_under_load(
    gate: Gated, server: Origin, number: signal.Signals
) -> None:
    gate.open("blue", "127.0.0.1")
    gate.open("red", deny=["127.0.0.1"])
    load = Load(gate, server.place, 16)
    try:
        for _ in range(3):
            before = load.served
            wait_for(lambda before=before: load.served > before + 50)  # type: ignore[misc]
            start = time.monotonic()
            gate.restart(number)
            while status(gate, "blue", server.place) != 200:
                pass
            assert time.monotonic() - start < gate_process.DEADLINE
            assert status(gate, "red", server.place) == 403
    finally:
        load.stop()
    assert load.wrong == []
    assert gate.call("verify")["ok"], gate.call("verify")
    assert gate.call("status").keys() == {"blue", "red"}
