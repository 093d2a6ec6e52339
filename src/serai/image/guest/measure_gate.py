"""Measures the gate inside a VM and prints one JSON array: `invoke bench` sends it there.

Run as ``python3 FILE`` by root, on the standard library and the runtime alone. One client asks one
nginx in four ways, which take turns, so that whatever else the VM does hits all alike:
straight, through one socat with the bridge's options, through socat, socat and tinyproxy, and from
inside a session through its bridge and the gate. The origin has a name, which the proxies look up
in /etc/hosts. The client is this file too: ``python3 - WHAT PORT TARGET``.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

LANES = {"direct": 8080, "socat": 8081, "tinyproxy": 8082, "gate": 3128}
ORIGIN = f"origin.test:{LANES['direct']}"
CONNECT = f"CONNECT {ORIGIN} HTTP/1.1\r\nHost: {ORIGIN}\r\n\r\n".encode()
SIZE = 256 << 20
BURST = 200
SMALL = 100
TUNNELS = 1000
HOLDERS = ("bench", "bench-2")  # a session may have 512 connections
TURNS = {"small": 21, "requests": 11, "tunnels": 11, "large": 9, "tunnel": 9}
DEADLINE = 60.0
READY = "ready"

Answer = dict[str, Any]


# --- the client


def message(target: str, path: str) -> bytes:
    """A request for ``path``; with a ``target`` as a proxy wants it. The answer ends in a close."""
    uri = f"http://{target}{path}" if target else path
    return f"GET {uri} HTTP/1.1\r\nHost: {ORIGIN}\r\nConnection: close\r\n\r\n".encode()


def fetch(
    port: int, request: bytes, buffer: memoryview, *, tunnel: bool = False
) -> tuple[float, int]:
    """Seconds and bytes of one request on a connection of its own."""
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        if tunnel:
            opened(sock)
        sock.sendall(request)
        size = sock.recv_into(buffer)
        if b" 200 " not in bytes(buffer[:16]):
            raise SystemExit(f"port {port} answers {bytes(buffer[: min(size, 300)])!r}")
        while count := sock.recv_into(buffer):
            size += count
    return time.perf_counter() - begin, size


def opened(sock: socket.socket) -> None:
    """Make a tunnel of a connection to a proxy."""
    sock.sendall(CONNECT)
    got = b""
    while not established(got):
        if not (data := sock.recv(4096)):
            raise SystemExit(f"there is no tunnel: {got!r}")
        got += data


def established(got: bytes) -> bool:
    return b" 200 " in got[:16] and got.endswith(b"\r\n\r\n")


def large(port: int, target: str) -> Answer:
    """Seconds that the large file takes."""
    seconds, size = fetch(port, message(target, "/large"), memoryview(bytearray(1 << 20)))
    if size < SIZE:
        raise SystemExit(f"port {port} sends {size} bytes")
    return {"seconds": seconds}


def tunnel(port: int, target: str) -> Answer:
    """The same through a tunnel; straight where there is no proxy."""
    request, buffer = message("", "/large"), memoryview(bytearray(1 << 20))
    return {"seconds": fetch(port, request, buffer, tunnel=bool(target))[0]}


def small(port: int, target: str) -> Answer:
    """The median of requests for a small file, one after another, a connection each."""
    request, buffer = message(target, "/small"), memoryview(bytearray(1 << 16))
    return {"seconds": statistics.median(fetch(port, request, buffer)[0] for _ in range(SMALL))}


def at_once(port: int, requests: list[bytes], done: Callable[[bytes], bool]) -> Answer:
    """Connect for all requests at once; how many fail, and the p99 of the seconds of the others.

    Each is over when ``done`` says so of what has come, and closed when all of them are.
    """
    left, begun, took = len(requests), time.perf_counter(), []
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for request in requests:
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            state = {"begin": time.perf_counter(), "request": request, "got": b""}
            sock.connect_ex(("127.0.0.1", port))
            selector.register(sock, selectors.EVENT_WRITE, state)
        while left and time.perf_counter() - begun < DEADLINE:
            for key, events in selector.select(1):
                sock, state = key.fileobj, key.data  # type: ignore[assignment]
                try:
                    if events & selectors.EVENT_WRITE:
                        sock.send(state["request"])
                        selector.modify(sock, selectors.EVENT_READ, state)
                        continue
                    data = sock.recv(65536)
                except OSError:
                    data = b""
                state["got"] += data
                over = done(state["got"])
                if over or not data:
                    left -= 1
                    selector.unregister(sock)
                if over:
                    took.append(time.perf_counter() - state["begin"])
    return {"seconds": p99(took) if took else DEADLINE, "failed": len(requests) - len(took)}


def p99(values: list[float]) -> float:
    """The least of them that 99 % do not exceed."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1]


def requests(port: int, target: str) -> Answer:
    """Many small requests at once."""
    many = [message(target, "/small")] * BURST
    return at_once(port, many, lambda got: b" 200 " in got[:16] and got.endswith(b"small\n"))


def tunnels(port: int, _target: str) -> Answer:
    """Many tunnels at once."""
    return at_once(port, [CONNECT] * BURST, established)


def idle(port: int, _target: str) -> Answer:
    """Tunnels that stay until somebody removes the file READY from our home."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        for _ in range(TUNNELS // len(HOLDERS)):
            opened(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
        ready = Path.home() / READY
        ready.touch()
        wait_for(lambda: not ready.exists())
    return {}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("what is waited for does not come")
        time.sleep(0.01)


ASKED: dict[str, Callable[[int, str], Answer]] = {
    **{"small": small, "requests": requests, "tunnels": tunnels},
    **{"large": large, "tunnel": tunnel, "idle": idle},
}


# --- the VM

NGINX = """
daemon off; user root; worker_processes auto; worker_rlimit_nofile 16384; pid /run/bench/pid;
error_log stderr;
events { worker_connections 8192; }
http { access_log off; sendfile on;
  server { listen 127.0.0.1:%d backlog=4096; listen unix:/run/bench/nginx backlog=4096;
    root /run/bench/files; } }
"""
TINYPROXY = """
Listen 127.0.0.1
Port 8888
MaxClients 2000
Timeout 600
LogLevel Critical
"""


def server(stack: ExitStack, *argv: str, **environment: str) -> None:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    stack.callback(process.wait)
    stack.callback(process.terminate)


def socat(stack: ExitStack, source: str, sink: str) -> None:
    """As the bridge runs it."""
    options = ["-b", "262144", "-t", "86400"]
    listening = f"{source},fork,reuseaddr,backlog=4096"
    server(stack, "socat", *options, listening, sink, LD_BIND_NOW="1")


def origin(stack: ExitStack) -> None:
    """Everything but the gate, which runs already."""
    home = Path("/run/bench")
    (home / "files").mkdir(parents=True)
    (home / "files/small").write_text("small\n" * 100)
    with (home / "files/large").open("wb") as file:
        file.truncate(SIZE)
    with Path("/etc/hosts").open("a") as file:
        file.write(f"127.0.0.1 {ORIGIN.partition(':')[0]}\n")
    (home / "nginx.conf").write_text(NGINX % LANES["direct"])
    (home / "tinyproxy.conf").write_text(TINYPROXY)
    server(stack, "nginx", "-c", str(home / "nginx.conf"))
    server(stack, "tinyproxy", "-d", "-c", str(home / "tinyproxy.conf"))
    local = "TCP4-LISTEN:{},bind=127.0.0.1"
    socat(stack, local.format(LANES["socat"]), "UNIX-CONNECT:/run/bench/nginx")
    socat(stack, local.format(LANES["tinyproxy"]), "UNIX-CONNECT:/run/bench/tinyproxy")
    socat(stack, "UNIX-LISTEN:/run/bench/tinyproxy", "TCP4:127.0.0.1:8888")
    wait_for(lambda: all(answers(lane) for lane in LANES if lane != "gate"))


def answers(lane: str) -> bool:
    target = ORIGIN if lane == "tinyproxy" else ""
    try:
        fetch(LANES[lane], message(target, "/small"), memoryview(bytearray(4096)))
    except (OSError, SystemExit):
        return False
    return True


def pss(pids: list[str]) -> float:
    """In MiB."""
    sys.path.insert(0, "/usr/lib/serai/python")  # not at the top: clients run this in a session
    from serai.common import proc  # noqa: PLC0415

    return sum(map(proc.pss, pids)) / (1 << 20)


def row(name: str, value: float, unit: str, baseline: float | None = None) -> Answer:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline}


class Asker:
    """Runs the client outside of a session, or for the gate inside of one."""

    def __init__(self, client: Any, session: str = HOLDERS[0]) -> None:
        self._client = client
        self._session = session
        self._source = Path(__file__).read_text()

    def take(self, lane: str, what: str) -> Answer:
        argv = ["python3", "-", what, str(LANES[lane])]
        argv.append(ORIGIN if lane in ("gate", "tinyproxy") else "")
        if lane == "gate":
            done = self._client.exec(self._session, argv, input=self._source.encode())
            status, out, err = done.status, done.stdout, done.stderr
        else:
            ran = subprocess.run(
                argv, check=False, input=self._source.encode(), capture_output=True
            )
            status, out, err = ran.returncode, ran.stdout, ran.stderr
        if status != 0:
            raise SystemExit(f"{what} through {lane}: {err.decode()}")
        answer: Answer = json.loads(out)
        return answer

    def turns(self, what: str, lanes: list[str]) -> dict[str, list[Answer]]:
        """The answers of lanes that take turns; the first turn fills caches and does not count."""
        found: dict[str, list[Answer]] = {lane: [] for lane in lanes}
        for _ in range(TURNS[what] + 1):
            for lane in lanes:
                found[lane].append(self.take(lane, what))
        return {lane: each[1:] for lane, each in found.items()}


def times(asker: Asker) -> list[Answer]:
    proxies = [lane for lane in LANES if lane not in ("direct", "socat")]
    small = asker.turns("small", list(LANES))
    alone = median(small["socat"])
    rows = [row(f"small request, p50, {lane}", median(small[lane]), "ms", alone) for lane in LANES]
    for what, lanes in (("requests", list(LANES)), ("tunnels", proxies)):
        found = asker.turns(what, lanes)
        bridge = median(found["socat"]) if "socat" in found else None
        for lane, each in found.items():
            failed = sum(answer["failed"] for answer in each)
            rows.append(row(f"{BURST} {what} at once, p99, {lane}", median(each), "ms", bridge))
            rows.append(row(f"{BURST} {what} at once, failed, {lane}", failed, ""))
    for what, title in (("large", "256 MiB"), ("tunnel", "256 MiB by tunnel")):
        found = asker.turns(what, list(LANES))
        direct = median(found["direct"])
        rows += [row(f"{title}, {lane}", median(found[lane]), "ms", direct) for lane in LANES]
    return rows


def median(answers: list[Answer]) -> float:
    """In milliseconds."""
    return 1000 * float(statistics.median(answer["seconds"] for answer in answers))


def memory(homes: list[Path]) -> list[Answer]:
    """PSS of the gate before and with idle tunnels, and of the sessions that have them."""
    ask = ["/usr/bin/systemctl", "show", "-P", "MainPID", "serai-gate.service"]
    gate = [subprocess.check_output(ask, text=True).strip()]
    before = pss(gate)
    children = [hold(home.name) for home in homes]
    for home in homes:
        wait_for((home / READY).exists)
    rows = [
        row("gate, no tunnel", before, "MiB"),
        row(f"gate, {TUNNELS:,} idle tunnels", pss(gate), "MiB"),
    ]
    inside = [
        pid
        for folder, _, _ in os.walk("/sys/fs/cgroup/serai.slice")
        for pid in Path(folder, "cgroup.procs").read_text().split()
    ]
    rows.append(row(f"sessions, {TUNNELS:,} idle tunnels", pss(inside), "MiB"))
    for home in homes:
        (home / READY).unlink()
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit("the tunnels did not stay")
    return rows


def hold(session: str) -> int:
    """Open this session's share of the tunnels; the PID of the child that waits for their end."""
    child = os.fork()
    if child == 0:
        from serai.runtime.client import Client  # noqa: PLC0415  # a connection of its own

        with Client(timeout=2 * DEADLINE) as client:
            Asker(client, session).take("gate", "idle")
        os._exit(0)
    return child


def main() -> None:
    sys.path.insert(0, "/usr/lib/serai/python")
    from serai.runtime.client import Client  # noqa: PLC0415  # not for the client in a session

    with ExitStack() as stack:
        origin(stack)
        client = stack.enter_context(Client(timeout=5 * DEADLINE))
        rules = [ORIGIN, f"127.0.0.1:{LANES['direct']}"]
        for session in HOLDERS:
            client.call("create", name=session)
            client.call("policy.allow", name=session, rules=rules)
        asker = Asker(client)
        print(json.dumps(times(asker) + memory([Path("/sessions", name) for name in HOLDERS])))


if __name__ == "__main__":
    if len(sys.argv) > 2:  # noqa: PLR2004
        what, port, target = sys.argv[1:]
        print(json.dumps(ASKED[what](int(port), target)))
    else:
        main()
