"""What a hostile server or caller says stays short in the log, and is an error; see test_fuzz."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support import gate_process
from tests.support.gate_process import Gated
from tests.support.origins import serving
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    with gate_process.gate() as running:
        running.open("blue", "127.0.0.1")
        yield running


def test_a_server_writes_no_novels_into_the_log(gate: Gated) -> None:
    def verbose(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"x" * 60_000 + b"\r\n\r\n")

    with serving(verbose) as server:
        answer = gate.ask("blue", f"GET http://{server.place}/ HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert len(answer) < 2000
    wait_for(lambda: gate.entries()[-1]["event"] == "closed")
    assert 0 < len(gate.entries()[-1]["error"]) < 300


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
    wait_for(lambda: gate.call("status") == {"blue": 0})
