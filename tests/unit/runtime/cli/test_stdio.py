"""``serai stdio --from-host``: who gets through to the control socket."""

from __future__ import annotations

import _socket
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import serai
from serai.image.vm import describe
from serai.runtime.cli import main, stdio
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE

SOURCES = str(Path(serai.__file__).parents[1])
UNITS = Path(serai.__file__).parent / "install/units"
IMPORTS = "import sys; from serai.runtime.cli import stdio; "
MAIN = "sys.exit(stdio.main(sys.argv[1:]))"


class FromVsock:
    """A connection by vsock as the kernel shows it; this host may have no vsock to connect by."""

    family = _socket.AF_VSOCK

    def __init__(self, cid: int | None, fileno: int) -> None:
        self._cid, self._descriptor = cid, fileno

    def getpeername(self) -> tuple[int, int]:
        if self._cid is None:
            raise OSError(107, "Transport endpoint is not connected")
        return self._cid, 1023

    def close(self) -> None:
        os.close(self._descriptor)


def refusal(monkeypatch: pytest.MonkeyPatch, cid: int | None) -> str:
    """Why the relay refuses a connection from this CID."""
    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as patch:
        patch.setattr(_socket, "socket", lambda fileno: FromVsock(cid, fileno))
        return stdio.refusal(theirs.fileno())


def test_the_host_alone_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, 2) == ""
    # The hypervisor, this VM itself (loopback), VMs in this VM, any.
    for cid in (0, 1, 3, 4, 258, (1 << 32) - 1):
        assert refusal(monkeypatch, cid) == f"it is from CID {cid}, not from the host"
    assert "cannot be seen" in refusal(monkeypatch, None)


def test_what_is_no_connection_by_vsock_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        assert stdio.refusal(reader) == "standard input is no socket"
    finally:
        os.close(reader)
        os.close(writer)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        with client, server.accept()[0] as accepted:
            assert stdio.refusal(accepted.fileno()) == "it has not come by vsock"
            client.sendall(b"still open")
            assert accepted.recv(100) == b"still open"


@contextmanager
def relay(
    control: socket.socket, begin: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A relay on a Unix socket, as if systemd had accepted it, and its client's end."""
    client, theirs = socket.socketpair()
    with client, theirs:
        client.settimeout(DEADLINE)
        started = subprocess.Popen(
            [sys.executable, "-c", IMPORTS + begin + MAIN, stdio.FROM_HOST],
            env={**os.environ, "PYTHONPATH": SOURCES, "SERAI_CONTROL": control.getsockname()},
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        with started:
            try:
                yield started, client
            finally:
                started.kill()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[socket.socket]:
    """A control socket that a relay may connect to."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        listener.settimeout(DEADLINE)
        yield listener


def test_another_one_is_hung_up_on_and_noted_down(control: socket.socket) -> None:
    with relay(control) as (started, client):
        assert client.recv(100) == b""
        assert started.wait(DEADLINE) == 1
        assert started.stderr is not None
        said = started.stderr.read()
    assert said == b"serai: this connection is refused: it has not come by vsock\n"
    control.setblocking(False)
    with pytest.raises(BlockingIOError):
        control.accept()


def test_without_the_check_anybody_commands_the_daemon(control: socket.socket) -> None:
    with relay(control, "stdio.refusal = lambda _: ''; ") as (started, client):
        client.sendall(b"a request")
        daemon, _ = control.accept()
        with daemon:
            assert daemon.recv(100) == b"a request"
            daemon.sendall(b"an answer")
            assert client.recv(100) == b"an answer"
            client.close()
            assert daemon.recv(100) == b""
        assert started.wait(DEADLINE) == 0


def test_the_check_is_asked_for_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the relay of the unit would be that of ssh, which lets all in."""
    asked: list[list[str]] = []

    def relay(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(stdio, "main", relay)
    for words in (["stdio", "--from-host"], ["--vm", "ssh://vm", "stdio", "--from-h"], ["stdio"]):
        assert main.main(words) == 0
    assert asked == [[stdio.FROM_HOST], [stdio.FROM_HOST], []]


def test_nothing_but_that_option_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--from"], ["x"], [stdio.FROM_HOST, "x"]):
        assert stdio.main(words) == 2
    assert capsys.readouterr().err.count("takes no arguments but --from-host\n") == 3


def test_systemd_starts_the_relay_with_the_check_and_only_where_it_is_asked_to() -> None:
    socket_unit, service = (
        (UNITS / name).read_text() for name in ("serai-vsock.socket", "serai-vsock@.service")
    )
    assert re.findall("^Exec.*$", service, re.MULTILINE) == [
        f"ExecStart=/usr/bin/serai stdio {stdio.FROM_HOST}"
    ]
    assert re.findall("^Listen.*$", socket_unit, re.MULTILINE) == [
        f"ListenStream=vsock::{describe.VSOCK_PORT}"
    ]
    assert "\nAccept=yes\n" in socket_unit
    role = yaml.safe_load((ROOT / "roles/runtime/defaults/main.yml").read_text())
    assert role["runtime_vsock"] is False
