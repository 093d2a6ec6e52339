"""Measures the way in from outside and prints one JSON array: `invoke bench` sends it there.

Run as ``python3 FILE`` by root, on the standard library and the runtime alone, with sshd running.
The host is this same VM: its ssh(1) meets its own sshd, so that there is no network between
the two that would differ from run to run. Each row is a median beside that of what it is compared
with, which took turns with it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common import proc
from serai.runtime.library import Session, Vm, connect

ROUNDS, REQUESTS, LARGE_ROUNDS = 40, 100, 5
SIZE = 256 << 20
JOBS = 1000
PIECE = 1 << 20
PORT = 3000
DEADLINE = 300.0
HERE = "unix:///run/serai/control.sock"
KEYS = Path("/root/.ssh/authorized_keys")

SERVER = f"""
import http.server
class Small(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"small\\n")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Small)
print("listening", flush=True)
server.serve_forever()
"""
# The same client inside and outside; argv: port and number of requests, each on a new connection.
CLIENT = """
import http.client, statistics, sys, time
def small(port):
    begin = time.perf_counter()
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    asked.request("GET", "/")
    if asked.getresponse().read() != b"small\\n": raise SystemExit("a wrong answer")
    asked.close()
    return time.perf_counter() - begin
port, number = map(int, sys.argv[1:])
print(1000 * statistics.median(small(port) for _ in range(number)))
"""

Row = dict[str, Any]


def milliseconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


def row(name: str, value: float, unit: str = "ms", baseline: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline}


def median(values: list[float]) -> float:
    return float(statistics.median(values))


@contextmanager
def reachable() -> Iterator[str]:
    """The address of this VM by ssh, with a key that it knows in the block."""
    with tempfile.TemporaryDirectory() as work:
        key = Path(work, "key")
        subprocess.run(
            ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True
        )
        known = KEYS.read_bytes() if KEYS.exists() else None
        KEYS.parent.mkdir(mode=0o700, exist_ok=True)
        with KEYS.open("ab") as keys:
            keys.write(key.with_suffix(".pub").read_bytes())
        subprocess.run(["/usr/bin/systemctl", "start", "ssh"], check=True)
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        os.environ["SERAI_SSH"] = f"ssh -q -i {key} {options}"
        try:
            yield "ssh://root@127.0.0.1"
        finally:
            KEYS.write_bytes(known) if known is not None else KEYS.unlink()


def commands(near: Session, far: Session) -> list[Row]:
    """A command over an open connection, less what the way there and back takes by itself."""
    local, ways, remote = [], [], []
    for _ in range(ROUNDS):
        local.append(milliseconds(lambda: near.run(["true"])))
        here = milliseconds(lambda: near.vm.call("version"))
        ways.append(milliseconds(lambda: far.vm.call("version")) - here)
        remote.append(milliseconds(lambda: far.run(["true"])))
    way = max(0.0, median(ways))
    return [
        row("there and back by ssh", way),
        row("exec by ssh, less there and back", median(remote) - way, "ms", median(local)),
    ]


def requests(session: Session) -> Row:
    """A small request through a forward, beside the same within the session."""
    server = session.start(["python3", "-u", "-c", SERVER])
    next(server.output(follow=True))
    inside, through = [], []
    with session.forward(PORT) as url:
        port = url.rpartition(":")[2]
        for _ in range(LARGE_ROUNDS):
            argv = ["python3", "-c", CLIENT]
            done = session.run([*argv, str(PORT), str(REQUESTS)])
            inside.append(float(done.stdout))
            here = subprocess.check_output([*argv, port, str(REQUESTS)])
            through.append(float(here))
    server.kill()
    return row("forwarded request", median(through), "ms", median(inside))


def output(session: Session) -> Row:
    """A payload's output by the control socket, beside the same program's by a pipe."""
    argv = ["head", "-c", str(SIZE), "/dev/zero"]

    def pipe() -> None:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as process:
            out = process.stdout
            assert out is not None  # noqa: S101
            whole(len(data) for data in iter(lambda: out.read(PIECE), b""))

    def streamed() -> None:
        with session.stream(argv) as process:
            whole(len(data) for _, data in process)

    pairs = [(milliseconds(pipe), milliseconds(streamed)) for _ in range(LARGE_ROUNDS)]
    return row(
        "256 MiB of output", median([b for _, b in pairs]), "ms", median([a for a, _ in pairs])
    )


def whole(sizes: Iterator[int]) -> None:
    if sum(sizes) != SIZE:
        raise SystemExit("some output is missing")


def pss() -> float:
    """sessiond's memory, in MiB."""
    ask = ["/usr/bin/systemctl", "show", "-P", "MainPID", "serai-sessiond.service"]
    pid = subprocess.check_output(ask, text=True).strip()
    return proc.pss(pid) / (1 << 20)


def jobs(vm: Vm) -> Row:
    """What a thousand jobs that do nothing cost sessiond's memory."""
    sessions = [vm.create() for _ in range(JOBS // 100)]
    # What the first ones need, later ones use again.
    for each in [session.start(["true"]) for session in sessions]:
        each.wait(DEADLINE)
    before = pss()
    started = [s.start(["sleep", "infinity"]) for s in sessions for _ in range(100)]
    running = sum(each.show()["state"] == "running" for each in started)
    if running != JOBS:
        raise SystemExit(f"{running} of {JOBS} jobs run")
    after = pss()
    for session in sessions:
        session.remove()
    return row("sessiond, 1,000 idle jobs", after - before, "MiB")


def main() -> None:
    with reachable() as address, connect(HERE, DEADLINE) as vm, connect(address, DEADLINE) as there:
        session = vm.create()
        rows = commands(session, there.session(session.name))
        rows += [requests(session), output(session)]
        session.remove()
        rows.append(jobs(vm))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
