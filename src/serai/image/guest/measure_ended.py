"""Measures inside a VM what it costs that the gate ends TLS; prints one JSON array.

Run as ``python3 FILE`` by root: `invoke bench` sends it there. A session's client asks one nginx by
https under two names: to ``tunnel.test`` the gate makes a tunnel, and for ``ended.test`` it ends
TLS, because a secret is bound to it. A session without a binding has a tunnel too. Straight is
outside of sessions. All take turns. The client is this file too: ``python3 - WHAT HOST``.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PORT = 8443
LANES = {
    "direct": "localhost",
    "nothing bound": "tunnel.test",
    "tunnel": "tunnel.test",
    "ended": "ended.test",
}
SIZE = 256 << 20
EXCHANGES = 200
CONNECTIONS = 20
TURNS = {"exchange": 11, "connect": 5, "large": 7, "upload": 5}
SESSION, UNBOUND = "bench", "bench-unbound"
HOME = Path("/run/bench-ended")
ROOT = Path("/usr/local/share/ca-certificates/serai-bench.crt")

Answer = dict[str, Any]


# --- the client


def connection(host: str) -> ssl.SSLSocket:
    """TLS to the origin: straight, or through the bridge."""
    straight = host == LANES["direct"]
    sock = socket.create_connection(("127.0.0.1", PORT if straight else 3128))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not straight:
        sock.sendall(f"CONNECT {host}:{PORT} HTTP/1.1\r\nHost: {host}:{PORT}\r\n\r\n".encode())
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            if not (data := sock.recv(1)):
                raise SystemExit(f"there is no tunnel: {got!r}")
            got += data
    return ssl.create_default_context().wrap_socket(sock, server_hostname=host)


def ask(tls: ssl.SSLSocket, host: str, path: str, buffer: memoryview, body: int = 0) -> None:
    """One request and its response, whose length the server says."""
    method = "PUT" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{PORT}\r\nContent-Length: {body}\r\n\r\n"
    tls.sendall(head.encode())
    while body:
        body -= tls.send(buffer[: min(body, len(buffer))])
    got = b""
    while b"\r\n\r\n" not in got:
        if not (data := tls.recv(65536)):
            raise SystemExit(f"{host} hangs up after {got!r}")
        got += data
    head_, _, rest = got.partition(b"\r\n\r\n")
    if b" 20" not in head_[:13]:
        raise SystemExit(f"{host} answers {head_!r}")
    lines = head_.lower().split(b"\r\n")
    length = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
    left = length - len(rest)
    while left > 0:
        if not (count := tls.recv_into(buffer, min(left, len(buffer)))):
            raise SystemExit(f"{host} hangs up amid an answer")
        left -= count


def exchange(host: str) -> float:
    """The median of small exchanges on one connection, in seconds."""
    buffer, took = memoryview(bytearray(1 << 16)), []
    with connection(host) as tls:
        for _ in range(EXCHANGES):
            begin = time.perf_counter()
            ask(tls, host, "/small", buffer)
            took.append(time.perf_counter() - begin)
    return statistics.median(took)


def connect(host: str) -> float:
    """The median of a connection with one small exchange."""
    buffer, took = memoryview(bytearray(1 << 16)), []
    for _ in range(CONNECTIONS):
        begin = time.perf_counter()
        with connection(host) as tls:
            ask(tls, host, "/small", buffer)
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


def large(host: str) -> float:
    """The seconds that a large file takes."""
    with connection(host) as tls:
        begin = time.perf_counter()
        ask(tls, host, "/large", memoryview(bytearray(1 << 20)))
        return time.perf_counter() - begin


def upload(host: str) -> float:
    """The seconds that a large body takes."""
    with connection(host) as tls:
        begin = time.perf_counter()
        ask(tls, host, "/put/file", memoryview(bytearray(1 << 20)), SIZE)
        return time.perf_counter() - begin


ASKED: dict[str, Callable[[str], float]] = {
    **{"exchange": exchange, "connect": connect, "large": large, "upload": upload},
}


# --- the VM

NGINX = """
daemon off; user root; worker_processes auto; pid /run/bench-ended/pid; error_log stderr;
events { worker_connections 1024; }
http { access_log off; sendfile on; client_max_body_size 0; client_body_temp_path /run/bench-ended;
  keepalive_requests 100000;
  server { listen 127.0.0.1:%d ssl; root /run/bench-ended/files;
    ssl_certificate /run/bench-ended/site.crt; ssl_certificate_key /run/bench-ended/site.key;
    location /put/ { dav_methods PUT; client_body_in_file_only off; } } }
"""


def certify() -> None:
    """A CA that the VM trusts, and a certificate for the origin's names."""
    names = ",".join(f"DNS:{name}" for name in sorted(set(LANES.values())))
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    ca = ["-subj", "/CN=Bench CA", "-keyout", "ca.key", "-out", str(ROOT)]
    made = ["-subj", "/CN=bench", "-addext", f"subjectAltName={names}"]
    ours = ["-CA", str(ROOT), "-CAkey", "ca.key", "-keyout", "site.key", "-out", "site.crt"]
    no_ca = ["-addext", "basicConstraints=critical,CA:FALSE"]
    for argv in (ca, [*made, *no_ca, *ours]):
        whole = ["openssl", "req", "-x509", *new, *argv]
        subprocess.run(whole, cwd=HOME, check=True, capture_output=True)
    subprocess.run(["/usr/sbin/update-ca-certificates"], check=True, capture_output=True)


def origin(stack: ExitStack) -> None:
    (HOME / "files/put").mkdir(parents=True)
    (HOME / "files/small").write_text("small\n" * 100)
    with (HOME / "files/large").open("wb") as file:
        file.truncate(SIZE)
    certify()
    with Path("/etc/hosts").open("a") as file:
        file.write(f"127.0.0.1 {LANES['tunnel']} {LANES['ended']}\n")
    (HOME / "nginx.conf").write_text(NGINX % PORT)
    nginx = subprocess.Popen(
        ["/usr/sbin/nginx", "-c", str(HOME / "nginx.conf")], stdout=subprocess.DEVNULL
    )
    stack.callback(nginx.wait)
    stack.callback(nginx.terminate)
    end = time.monotonic() + 30
    while True:
        try:
            return exchange_once(LANES["direct"])
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def exchange_once(host: str) -> None:
    with connection(host) as tls:
        ask(tls, host, "/small", memoryview(bytearray(1 << 16)))


def take(client: Any, lane: str, what: str) -> float:
    """One measurement, in milliseconds."""
    argv, source = ["python3", "-", what, LANES[lane]], Path(__file__).read_bytes()
    if lane == "direct":
        ran = subprocess.run(argv, check=False, input=source, capture_output=True)
        status, out, err = ran.returncode, ran.stdout, ran.stderr
    else:
        session = UNBOUND if lane == "nothing bound" else SESSION
        done = client.exec(session, argv, input=source)
        status, out, err = done.status, done.stdout, done.stderr
    if status != 0:
        raise SystemExit(f"{what}, {lane}: {err.decode()}")
    return 1000 * float(json.loads(out))


def main() -> None:
    os.umask(0o022)
    sys.path.insert(0, "/usr/lib/serai/python")
    from serai.runtime.client import Client  # noqa: PLC0415  # not for the client in a session

    titles = {
        "exchange": ("exchange on a kept connection", "tunnel"),
        "connect": ("connection and exchange", "tunnel"),
        "large": ("256 MiB by TLS", "direct"),
        "upload": ("256 MiB sent by TLS", "direct"),
    }
    rows = []
    with ExitStack() as stack:
        origin(stack)
        client = stack.enter_context(Client(timeout=600.0))
        names = [LANES["tunnel"], LANES["ended"], "127.0.0.1"]
        for session in (SESSION, UNBOUND):
            client.call("create", name=session)
            client.call("policy.allow", name=session, rules=[f"{name}:{PORT}" for name in names])
        client.call("secret.set", name=SESSION, value="no-secret-at-all")
        bound = {"hosts": [f"{LANES['ended']}:{PORT}"], "header": "X-Key: {}"}
        client.call("policy.bind", name=SESSION, secret=SESSION, **bound)
        for what, (title, against) in titles.items():
            found: dict[str, list[float]] = {lane: [] for lane in LANES}
            for _ in range(TURNS[what] + 1):
                for lane in LANES:
                    found[lane].append(take(client, lane, what))
            medians = {lane: statistics.median(each[1:]) for lane, each in found.items()}
            for lane, value in medians.items():
                baseline = medians[against]
                row = {"name": f"{title}, {lane}", "value": value, "unit": "ms"}
                rows.append({**row, "baseline": baseline})
    print(json.dumps(rows))


if __name__ == "__main__":
    if len(sys.argv) > 2:  # noqa: PLR2004
        print(json.dumps(ASKED[sys.argv[1]](sys.argv[2])))
    else:
        main()
