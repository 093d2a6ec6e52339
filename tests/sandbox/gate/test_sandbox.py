"""The way out as a session has it: from inside a real sandbox, over its socats, to the gate."""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import gate_process, origins
from tests.support.fake_vm import Vm, opened
from tests.support.gate_process import everything, until
from tests.support.network import inside
from tests.support.origins import serving
from tests.support.socks import OPEN, socks_request
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        machine.start()
        for name in ("blue", "red"):
            machine.call("create", name=name)
        machine.call("policy.allow", name="blue", rules=["127.0.0.1", "localhost"])
        yield machine


def init(vm: Vm, name: str) -> int:
    """A process in a session's network."""
    own = Path("/proc/self/ns/net").readlink()
    pids = (vm.cgroup / name / "cgroup.procs").read_text().split()
    return next(int(p) for p in pids if Path(f"/proc/{p}/ns/net").readlink() != own)


def client(vm: Vm, name: str, port: int) -> socket.socket:
    """A connection to the bridge inside the sandbox."""
    with inside(init(vm, name)):
        sock = socket.create_connection(("127.0.0.1", port), gate_process.DEADLINE)
    sock.settimeout(gate_process.DEADLINE)
    return sock


def tunnel(vm: Vm, place: str) -> socket.socket:
    sock = client(vm, "blue", 3128)
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    assert until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    return sock


def socks_tunnel(vm: Vm, place: str) -> socket.socket:
    host, port = place.split(":")
    sock = client(vm, "blue", 1080)
    sock.sendall(b"\x05\x01\x00" + socks_request(host.encode(), int(port)))
    assert until(sock, OPEN) == b"\x05\x00" + OPEN
    return sock


def curl(vm: Vm, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """curl in a session, by its proxy also to the loopback."""
    return vm.serai("exec", name, "--", "curl", "-sS", "--noproxy", "", *arguments)


def test_curl_gets_pages_by_both_proxies(vm: Vm) -> None:
    with serving(origins.web) as web:
        got = curl(vm, "blue", f"http://{web.place}/page")
        assert json.loads(got.stdout)["line"] == "GET /page HTTP/1.1", got.stderr
        proxy = "socks5h://127.0.0.1:1080"
        got = curl(vm, "blue", "--proxy", proxy, f"http://localhost:{web.port}/page")
        assert json.loads(got.stdout)["line"] == "GET /page HTTP/1.1", got.stderr
        got = curl(vm, "red", f"http://{web.place}/page")
        assert "Serai's gate denied" in got.stdout
        assert f"serai policy allow red {web.place}" in got.stdout
        got = curl(vm, "blue", "https://a.example/")
        assert got.returncode == 56 and "403" in got.stderr


def test_there_is_no_other_way_out(vm: Vm) -> None:
    got = vm.serai("exec", "blue", "--", "curl", "-sS", "--noproxy", "*", "http://192.0.2.1")
    assert got.returncode == 7
    got = vm.serai("exec", "blue", "--", "getent", "hosts", "example.com")
    assert got.returncode == 2
    udp = "import socket; s=socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('11.0.0.1', 53))"
    got = vm.serai("exec", "blue", "--", "python3", "-c", udp)
    assert "Network is unreachable" in got.stderr


CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print(path)
    except OSError as error:
        print(error.errno)
"""


def test_no_session_opens_another_s_sockets(vm: Vm) -> None:
    run = vm.paths.run
    foreign = [run / "gate/red/http.sock", vm.paths.gate_control, vm.paths.control]
    inside_it = [Path("/") / path.relative_to(vm.root) for path in foreign]
    own = "/run/serai/gate/http.sock"
    exists = "import os, sys; print([path for path in sys.argv[1:] if os.path.exists(path)])"
    paths = [*map(str, (*foreign, *inside_it)), own]
    got = vm.serai("exec", "blue", "--", "python3", "-c", exists, *paths)
    assert got.stdout == f"[{own!r}]\n", got.stderr
    # Nor does a payload open its own, past the bridge; and it cannot even list the folder.
    got = vm.serai("exec", "blue", "--", "python3", "-c", CONNECT, own)
    assert got.stdout == f"{errno.EPERM}\n"
    got = vm.serai("exec", "blue", "--", "ls", "/run/serai/gate")
    assert got.returncode == 2 and got.stdout == ""

    # With the session's user and without any sandbox.
    uid = vm.sessions()["blue"]["uid"]
    setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    paths = [*map(str, foreign), str(run / "gate/blue/http.sock")]
    argv = [*setpriv, "/usr/bin/python3", "-c", CONNECT, *paths]
    got = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert got.stdout.split() == [str(errno.EACCES)] * 3 + [paths[-1]]


def test_with_modes_that_let_all_in_they_are_reached(vm: Vm) -> None:
    folder = vm.paths.run / "gate/red"
    uid = vm.sessions()["blue"]["uid"]
    setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    argv = [*setpriv, "/usr/bin/python3", "-c", CONNECT, str(folder / "http.sock")]
    modes = {path: path.stat().st_mode for path in (folder, folder / "http.sock")}
    for path in modes:
        path.chmod(0o777)
    try:
        got = subprocess.run(argv, check=True, capture_output=True, text=True)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert got.stdout.split() == [argv[-1]]


@pytest.mark.parametrize("way", [tunnel, socks_tunnel])
def test_the_end_of_one_side_passes_the_bridge(vm: Vm, way: object) -> None:
    assert callable(way)
    go, heard = threading.Event(), []

    def late(sock: socket.socket) -> None:
        heard.append(everything(sock))
        assert go.wait(origins.DEADLINE)
        sock.sendall(b"late answer")

    with serving(late) as server, way(vm, server.place) as sock:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: heard)
        # socat of itself waits half a second only.
        time.sleep(0.8)
        go.set()
        assert everything(sock) == b"late answer"

    def brief(sock: socket.socket) -> None:
        sock.sendall(b"all I say")
        sock.shutdown(socket.SHUT_WR)
        heard.append(everything(sock))

    heard.clear()
    with serving(brief) as server, way(vm, server.place) as sock:
        assert everything(sock) == b"all I say"
        time.sleep(0.8)
        sock.sendall(b"still talking")
        sock.close()
        wait_for(lambda: heard == [b"still talking"])


def test_a_reset_of_the_client_ends_it_at_the_server(vm: Vm) -> None:
    """socat passes it on as an end."""
    ended: list[bytes] = []

    with serving(lambda sock: ended.append(everything(sock))) as server:
        sock = tunnel(vm, server.place)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        wait_for(lambda: ended)


def test_an_answer_to_who_still_writes_passes_the_bridge(vm: Vm) -> None:
    with serving(origins.web) as web, client(vm, "red", 3128) as sock:
        lines = f"POST http://{web.place}/ HTTP/1.1\r\nHost: {web.place}\r\n"
        sock.sendall(f"{lines}Content-Length: 300000\r\n\r\n".encode() + bytes(300_000))
        answer = everything(sock)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"}\n")


def test_sessions_outlive_the_gate(vm: Vm) -> None:
    with serving(origins.echo) as server:
        before = {name: init(vm, name) for name in ("blue", "red")}
        old = tunnel(vm, server.place)
        vm.kill_gate()
        assert everything(old) == b""
        vm.start_gate()

        def works() -> bool:
            with client(vm, "blue", 3128) as sock:
                sock.sendall(
                    f"CONNECT {server.place} HTTP/1.1\r\nHost: {server.place}\r\n\r\n".encode()
                )
                try:
                    return sock.recv(12) == b"HTTP/1.1 200"
                except ConnectionError:
                    return False

        wait_for(works)
        assert {name: init(vm, name) for name in ("blue", "red")} == before
        assert vm.call("policy.show", name="blue")["allow"] == ["127.0.0.1", "localhost"]
        got = curl(vm, "red", f"http://{server.place}/")
        assert "Serai's gate denied" in got.stdout
        assert vm.call("audit.verify")["ok"]


def test_a_stopped_session_leaves_nothing(vm: Vm) -> None:
    vm.call("create", name="green")
    folder = vm.paths.gate("green")
    assert sorted(path.name for path in folder.iterdir()) == ["http.sock", "socks.sock"]
    vm.call("stop", name="green")
    assert not folder.exists()
    assert not (vm.cgroup / "green").exists()
    assert not list(vm.paths.gate_state.glob("green*"))
