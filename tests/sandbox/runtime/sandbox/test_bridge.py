"""The bridge says nothing about connections that fail: its words go to the VM's journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.sandbox import BRIDGE
from tests.support.waiting import wait_for

CONNECTIONS = 20


@pytest.mark.parametrize("quiet", [True, False])
def test_a_failed_connection_is_no_line(tmp_path: Path, quiet: bool) -> None:
    """And it is the option that keeps socat quiet."""
    program = tmp_path / "bridge"
    text = BRIDGE.read_text()
    program.write_text(text if quiet else text.replace("-lf /dev/null ", ""))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = tmp_path / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/bash", program],
            env={"PATH": os.environ["PATH"], "SERAI_BRIDGE": f"{port}:{tmp_path}/none"},
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(lambda: ended(port))
        for _ in range(CONNECTIONS):
            assert ended(port)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = said.read_text().splitlines()
    assert lines == [] if quiet else len(lines) >= CONNECTIONS


def ended(port: int) -> bool:
    """Whether somebody listens; waits until the connection has been ended by the other side."""
    with socket.socket() as sock:
        sock.settimeout(20)
        if sock.connect_ex(("127.0.0.1", port)):
            return False
        try:
            return sock.recv(1) == b""
        except ConnectionError:
            return True
