"""The bridge outlives what payloads do to it, and says nothing that the VM's journal would keep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai.common import proc
from serai.common.errors import SeraiError
from serai.image import ports
from serai.runtime.sandbox import bwrap
from serai.runtime.settings import SessionSettings
from tests.support.sandbox import (
    BRIDGE,
    Room,
    build_filters,
    listening,
    make_session,
    make_top,
    open_room,
)
from tests.support.waiting import wait_for

CONNECTIONS = 20
SIGNALS = """\
import os, signal, sys
for number in signal.valid_signals():
    for pid in map(int, sys.argv[1:]):
        try: os.kill(pid, number)
        except OSError: pass
"""
ATTACKS = {
    "every signal to PID 1": ("/usr/bin/python3", "-c", SIGNALS, "1"),
    "every signal to all": ("/usr/bin/python3", "-c", SIGNALS, "1", "2", "3", "4", "-1"),
    "kill -9 -1": ("sh", "-c", "kill -9 -1"),
    "pkill bash": ("pkill", "-KILL", "bash"),
    "pkill -u": ("pkill", "-KILL", "-u", "40091"),
}
LIMITS = """\
import os, resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
    try:
        resource.prlimit(1, kind, (0, 0))
        print("limited", kind)
    except PermissionError:
        pass
for name in ("oom_score_adj", "oom_adj", "task/1/oom_score_adj", "task/1/oom_adj"):
    try:
        open("/proc/1/" + name, "w").write("15")
        print("chosen", name)
    except PermissionError:
        pass
"""
SPARES_CHILDREN = ("every signal to PID 1", "pkill bash")


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    with make_top() as folder:
        yield folder


@pytest.fixture(scope="module")
def room(top: Path) -> Iterator[Room]:
    with open_room(make_session(top, "blue", 40091)) as opened:
        yield opened


def bridges(room: Room) -> set[int]:
    """The PIDs of the children of the sandbox's PID 1 that carry its ports."""
    return {pid for pid in proc.children(room.target.pid) if is_socat(pid)}


def is_socat(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "socat\n"
    except OSError:  # it has ended meanwhile
        return False


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_signal_of_a_payloads_ends_the_session(room: Room, attack: str) -> None:
    before = set() if attack in SPARES_CHILDREN else bridges(room)
    room.run(ATTACKS[attack])
    wait_for(lambda: not before & bridges(room) and {3128, 1080} <= listening(room.target.pid))
    assert room.run(["true"]).status == 0


def test_without_being_pid_1_the_bridge_takes_the_session_with_it(top: Path) -> None:
    session = make_session(top, "red", 40092)
    options = [each for each in bwrap.arguments(SessionSettings(), session) if each != "--as-pid-1"]
    with open_room(session, options=options) as weak:
        weak.run(["sh", "-c", "kill -9 2"])
        wait_for(lambda: gone(weak))


def test_a_payload_can_limit_the_bridge_in_nothing(room: Room) -> None:
    """Without memory, descriptors or time it is of no use, or ends; memory's lack would end it."""
    assert room.python(LIMITS).output == ""
    adjusted = Path(f"/proc/{room.target.pid}/oom_score_adj").read_text()
    assert adjusted == Path("/proc/self/oom_score_adj").read_text()


def test_without_its_filter_a_payload_takes_the_ports_from_its_session(top: Path) -> None:
    session = make_session(top, "green", 40093)
    with open_room(session, filters=build_filters("prlimit")) as weak:
        assert "limited" in weak.python(LIMITS).output
        weak.run(["pkill", "-KILL", "socat"])
        wait_for(lambda: not listening(weak.target.pid))


def gone(room: Room) -> bool:
    try:
        room.run(["true"])
    except SeraiError:
        return True
    return False


def test_a_bridge_that_gave_up_begins_again(tmp_path: Path) -> None:
    """As it does where payloads have used up all processes; what runs already is left alone."""
    given_up = '[ "${GAVE_UP-}" ] || { export GAVE_UP=1; exit 1; }\n    read'
    with bridge(tmp_path, BRIDGE.read_text().replace("    read", f"    {given_up}")) as made:
        process, port = made
        (child,) = proc.children(process.pid)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: b"GAVE_UP" in Path(f"/proc/{process.pid}/environ").read_bytes())
        wait_for(lambda: ended(port))
        assert process.poll() is None
        assert len(proc.children(process.pid)) == 1


@pytest.mark.parametrize("quiet", [True, False])
def test_a_failed_connection_is_no_line(tmp_path: Path, quiet: bool) -> None:
    """And it is the option that keeps socat quiet."""
    text = BRIDGE.read_text()
    with bridge(tmp_path, text if quiet else text.replace("-lf /dev/null ", "")) as (_, port):
        for _ in range(CONNECTIONS):
            assert ended(port)
    lines = (tmp_path / "said").read_text().splitlines()
    assert lines == [] if quiet else len(lines) >= CONNECTIONS


@contextmanager
def bridge(folder: Path, text: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A bridge with one port and nobody behind it; what it says goes to ``folder``/said."""
    program = folder / "bridge"
    program.write_text(text)
    (port,) = ports.unused(1)
    with (folder / "said").open("wb") as file:
        process = subprocess.Popen(
            ["/bin/bash", program],
            env={"PATH": os.environ["PATH"], "SERAI_BRIDGE": f"{port}:{folder}/none"},
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(lambda: ended(port))
        yield process, port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
