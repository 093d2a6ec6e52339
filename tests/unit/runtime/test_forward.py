"""What a forward changes in a request, and that it says what it cannot do."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from serai import connect
from serai.common import jsonrpc
from serai.common.errors import SeraiError
from serai.runtime.forward import rewritten
from tests.support.waiting import wait_for
from tests.unit.runtime.test_remote import answering, greeted


def lines(*words: str) -> bytes:
    return "\r\n".join([*words, "", ""]).encode()


def test_a_request_is_for_localhost_and_the_only_one() -> None:
    head = lines("GET /a HTTP/1.1", "hOst: vm.example:80", "Connection: keep-alive", "A: b")
    wanted = lines("GET /a HTTP/1.1", "Host: localhost:3000", "Connection: close", "A: b")
    assert rewritten(head, 3000) == wanted


def test_a_request_for_a_websocket_stays_one() -> None:
    words = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"]
    origin = "Origin: http://127.0.0.1:8080"
    head = lines("GET / HTTP/1.1", "Host: 127.0.0.1:8080", origin, *words)
    ours = "Origin: http://localhost:3000"
    wanted = lines("GET / HTTP/1.1", "Host: localhost:3000", ours, *words)
    assert rewritten(head, 3000) == wanted


def test_a_request_for_another_protocol_is_answered_as_it_is() -> None:
    head = lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: h2c")
    wanted = lines("GET / HTTP/1.1", "Host: localhost:1", "Connection: close", "Upgrade: h2c")
    assert rewritten(head, 1) == wanted


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8081"])
def test_a_request_from_another_site_stays_one(origin: str) -> None:
    head = lines("POST / HTTP/1.1", "Host: 127.0.0.1:8080", f"Origin: {origin}")
    assert f"Origin: {origin}\r\n".encode() in rewritten(head, 3000)


@pytest.mark.parametrize(
    "head", [b"\x16\x03\x01\r\n\r\n", lines("GET /"), lines("PRI * HTTP/2.0"), b"\r\n\r\n"]
)
def test_what_is_no_request_stays_as_it_is(head: bytes) -> None:
    assert rewritten(head, 3000) == head


def vm(request: dict[str, Any]) -> bytes | None:
    """A VM that knows one session, and hangs up when somebody connects to a port of it."""
    if request["method"] == "version":
        return greeted(request)
    if request["method"] in ("show", "forward.open"):
        return jsonrpc.result(request["id"], {"name": "one", "forward": "1"})
    return None


def test_a_forward_whose_vm_is_gone_ends_and_says_so(tmp_path: Path) -> None:
    with answering(tmp_path, vm) as (where, asked), connect(where) as machine:
        with machine.session("one").forward(3000) as url:
            assert url.startswith("http://127.0.0.1:")
            with pytest.raises(OSError, match=r"reset|closed"):
                urllib.request.urlopen(url, timeout=10)  # noqa: S310  # ours
            wait_for(lambda: url.ended)
            assert "hung up" in url.ended
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(url, timeout=10)  # noqa: S310  # ours
        assert asked.count("forward.connect") == 1


def test_an_older_vm_that_would_lose_bytes_is_told_plainly(tmp_path: Path) -> None:
    def older(request: dict[str, Any]) -> bytes | None:
        if request["method"] == "version":
            met = {"version": "0", "protocol": jsonrpc.PROTOCOL, "capabilities": []}
            return jsonrpc.result(request["id"], met)
        return vm(request)

    with answering(tmp_path, older) as (where, asked), connect(where) as machine:
        session = machine.session("one")
        with pytest.raises(SeraiError, match="an older Serai, which forwards in another way"):
            session.forward(3000)
        assert "forward.open" not in asked


@pytest.mark.parametrize(
    "said",
    [b"[]", b'{"method": "forward.data", "params": 1}', b"[" * 100_000, b'{"id": 77, "result": 1}'],
)
def test_a_vm_that_talks_nonsense_ends_the_forward(tmp_path: Path, said: bytes) -> None:
    def nonsense(request: dict[str, Any]) -> bytes | None:
        return said + b"\n" if request["method"] == "forward.connect" else vm(request)

    with (
        answering(tmp_path, nonsense) as (where, _),
        connect(where) as machine,
        machine.session("one").forward(3000) as url,
    ):
        with pytest.raises(OSError, match=r"reset|closed"):
            urllib.request.urlopen(url, timeout=10)  # noqa: S310  # ours
        wait_for(lambda: url.ended)
        assert "makes no sense" in url.ended


def test_a_port_that_is_taken_is_told_and_nothing_is_opened(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        answering(tmp_path, vm) as (where, asked),
        connect(where) as machine,
    ):
        session, taken = machine.session("one"), other.getsockname()[1]
        for port, why in ((taken, "in use; --local"), (70000, "up to 65535")):
            with pytest.raises(SeraiError, match=why):
                session.forward(3000, local=port)
        assert "forward.open" not in asked


def test_the_command_prints_the_url_and_ends_with_its_vm(tmp_path: Path) -> None:
    code = "import sys; from serai.runtime.cli.main import script; sys.exit(script())"
    words = ["--vm", f"unix://{tmp_path}/vm.sock", "forward", "one", "3000", "--local", "0"]
    with (
        answering(tmp_path, vm),
        subprocess.Popen([sys.executable, "-c", code, *words], stdout=-1, stderr=-1) as child,
    ):
        assert child.stdout is not None
        url = child.stdout.readline().decode().strip()
        with pytest.raises(OSError, match=r"reset|closed"):
            urllib.request.urlopen(url, timeout=10)  # noqa: S310  # ours
        _, said = child.communicate(timeout=30)
    assert (child.returncode, said.count(b"\n")) == (3, 1)
    assert b"hung up" in said
