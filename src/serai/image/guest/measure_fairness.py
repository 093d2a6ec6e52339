"""Measures what one session at its worst costs another, and prints one JSON array.

`invoke bench --only fairness` sends it into a container, and with `--image` into a booted image.
Run as ``python3 FILE [ATTACK …]`` by root, on the standard library and the runtime alone. The
session ``rogue`` makes one attack after the other. Before each and during it the session
``witness`` is measured: how long an `exec` of ``true`` takes, and a small request from inside to a
server of the VM. Then the rogue is stopped. It judges nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROGUE, WITNESS = "rogue", "witness"
GOOD, EVIL, DEAF = 8090, 8091, 8092  # ports of servers
EXECS, REQUESTS = 30, 60
DEADLINE = 300.0
PATIENCE = 60.0  # seconds after which an exec or a request has failed
AT_WORK = Path("/sessions", ROGUE, "at-work")
DISK = Path("/run/serai/session-disk")  # where sessions have a disk of their own
CPU = Path("/sys/fs/cgroup/serai.slice/cpu.weight")  # where the kernel divides processors

# --- what the rogue runs

INSIDE = f"""
import os, signal, socket, struct, threading
GOOD, EVIL, DEAF = {GOOD}, {EVIL}, {DEAF}
def connect():
    return socket.create_connection(("127.0.0.1", 3128))
def ask(port, method="GET", more=""):
    s = connect()
    host = f"127.0.0.1:{{port}}"
    head = f"{{method}} http://{{host}}/ HTTP/1.1\\r\\nHost: {{host}}\\r\\n{{more}}\\r\\n"
    s.sendall(head.encode())
    return s
go = threading.Event()
def for_ever(what, *arguments):
    go.wait()  # the first of them would leave the thread that starts the others no time
    while True:
        try:
            what(*arguments)
        except OSError:
            pass
def many(count, what, *arguments):
    for _ in range(count):
        threading.Thread(target=for_ever, args=(what, *arguments)).start()
def forks(count):
    for _ in range(count - 1):
        if os.fork() == 0:
            return
open("begun", "w").close()
def at_work():
    try:
        os.rename("begun", "at-work")  # which a full disk does not keep from being done
    except FileNotFoundError:
        pass
    go.set()
"""
ATTACKS = {
    # An origin that sends interim responses with heads of 64 KiB without end.
    "heads of an origin": """
def read():
    with ask(EVIL) as s:
        while s.recv(65536): pass
forks(2)
many(100, read)
at_work()
""",
    # SIGSTOP for whatever enters; somebody outside goes on entering.
    "stopping what enters": """
at_work()
last = os.getpid()
while True:
    for pid in range(last + 1, last + 100):
        try:
            os.kill(pid, signal.SIGSTOP)
            last = pid
            break
        except OSError: pass
""",
    # Chunks of a byte, for a server that reads nothing and for one that does; answers unread.
    "small pieces": """
def send(port):
    with ask(port, "POST", "Transfer-Encoding: chunked\\r\\n") as s:
        while True: s.sendall(b"1\\r\\nx\\r\\n" * 1000)
forks(2)
many(100, send, DEAF)
many(100, send, EVIL)
at_work()
""",
    # Each is a thing that a careless program would write to the journal.
    "connections reset": """
def reset():
    with connect() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.send(b"G")
forks(2)
many(10, reset)
at_work()
""",
    # Each waits in the middle of a head; whoever is turned away comes again.
    "2,048 connections": """
def hold():
    with connect() as s:
        s.send(b"GET / HT")
        s.recv(65536)
threading.stack_size(65536)
many(2048, hold)
at_work()
""",
    # As many as there may be, and some that end and begin all the time.
    "8,192 tasks": """
wait, begin = os.pipe()
for _ in range(16):
    if os.fork() == 0:
        os.read(wait, 1)
        while True:
            try:
                if (pid := os.fork()) == 0: os._exit(0)
                os.waitpid(pid, 0)
            except OSError: pass
threading.stack_size(32768)
stay = threading.Lock()
stay.acquire()
try:
    for _ in range(8000): threading.Thread(target=stay.acquire).start()
except RuntimeError: pass
os.write(begin, b"x" * 16)
at_work()
""",
    "every processor": """
forks(64)
at_work()
while True: pass
""",
    # To the last byte and inode; then each is given back and taken again.
    "full disk": """
def fill():
    with open(f"fill-{threading.get_ident()}", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 20))
def names(folder):
    os.makedirs(folder, exist_ok=True)
    for number in range(10 ** 9): open(f"{folder}/{number}", "w").close()
def again(folder):
    for name in os.listdir(folder): os.unlink(f"{folder}/{name}")
    names(folder)
for work in (fill, lambda: names("f")):
    try: work()
    except OSError: pass
at_work()
many(2, fill)
for_ever(again, "f")
""",
    "every terminal": """
forks(4)
held = []
try:
    while True: held += os.openpty()
except OSError: pass
at_work()
signal.pause()
""",
    # What it maps anew is taken from its own pages, again and again.
    "all its memory": """
import mmap
limit = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal")) << 10
held = mmap.mmap(-1, limit * 4 // 10)
forks(2)
while True:
    for at in range(0, len(held), 4096): held[at] = 1
    at_work()
""",
}
# From inside the witness: the seconds of each small request, -1 for one that fails.
ASK = f"""
import json, socket, time
took = []
for _ in range({REQUESTS}):
    begin = time.perf_counter()
    try:
        with socket.create_connection(("127.0.0.1", 3128), timeout={PATIENCE}) as s:
            s.sendall(b"GET http://127.0.0.1:{GOOD}/ HTTP/1.1\\r\\nHost: 127.0.0.1:{GOOD}\\r\\n"
                      b"Connection: close\\r\\n\\r\\n")
            got = b""
            while data := s.recv(65536): got += data
        well = got.startswith(b"HTTP/1.1 200") and got.endswith(b"small\\n")
        took.append(time.perf_counter() - begin if well else -1)
    except OSError:
        took.append(-1)
print(json.dumps(took))
"""

# --- the servers, each a process of its own: argv is what it does and its port


def good(client: socket.socket) -> None:
    """Answer."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsmall\n")


def evil(client: socket.socket) -> None:
    """Interim responses without end. What is posted is read."""
    if client.recv(65536).startswith(b"POST"):
        while client.recv(65536):
            pass
    heads = (b"HTTP/1.1 103 x\r\n" + b"a:\r\n" * 16000 + b"\r\n") * 4
    while True:
        client.sendall(heads)


def deaf(_client: socket.socket) -> None:
    """Read nothing."""
    threading.Event().wait()


SERVERS: dict[int, Callable[[socket.socket], None]] = {GOOD: good, EVIL: evil, DEAF: deaf}


def serve(port: int) -> None:
    def one(client: socket.socket) -> None:
        with client, suppress(OSError):
            SERVERS[port](client)

    threading.stack_size(1 << 18)
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


@contextmanager
def serving(port: int) -> Iterator[None]:
    """A server. What is not the witness's has the least share of the processor: it is far away."""
    unit = f"bench-{port}"
    weight = [] if port == GOOD else ["--property=CPUWeight=1", "--property=Nice=19"]
    run = ["/usr/bin/systemd-run", "--quiet", "--collect", f"--unit={unit}", *weight]
    run += ["--property=LimitNOFILE=65536", "--property=TasksMax=infinity"]
    subprocess.run([*run, "/usr/bin/python3", __file__, str(port)], check=True)
    try:
        wait_for(lambda: answers(port))
        yield
    finally:
        subprocess.run(["/usr/bin/systemctl", "kill", "--signal=KILL", unit], check=False)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


# --- the VM


def wait_for(condition: Callable[[], bool], deadline: float = DEADLINE) -> bool:
    """Whether the condition came to hold in time."""
    end = time.monotonic() + deadline
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds


def execs(client: Any) -> list[float]:
    """Seconds of each exec of true in the witness; -1 for one that failed."""
    from serai.common.errors import SeraiError  # noqa: PLC0415  # not for the servers

    took = []
    for _ in range(EXECS):
        begin = time.perf_counter()
        try:
            argv = ["true"]
            done = client.call("exec", name=WITNESS, argv=argv, stdio="null", timeout=PATIENCE)
            took.append(-1.0 if done["status"] else time.perf_counter() - begin)
        except SeraiError:
            took.append(-1.0)
    return took


def requests(client: Any) -> list[float]:
    """Seconds of each small request of the witness."""
    from serai.common.errors import SeraiError  # noqa: PLC0415  # not for the servers

    try:
        done = client.exec(WITNESS, ["python3", "-c", ASK], timeout=REQUESTS * PATIENCE)
        took: list[float] = json.loads(done.stdout)
    except (SeraiError, ValueError):
        return [-1.0] * REQUESTS
    return took


MEASURED = {"exec": execs, "request": requests}


@contextmanager
def entering(wanted: bool) -> Iterator[None]:
    """Somebody outside who goes on running commands in the rogue."""
    script = f"while :; do serai exec {ROGUE} --timeout 2 -- true; sleep .1; done"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    loops = [
        subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, **quiet)  # type: ignore[call-overload]
        for _ in range(3 if wanted else 0)
    ]
    try:
        yield
    finally:
        for loop in loops:
            os.killpg(loop.pid, signal.SIGKILL)
            loop.wait()


def attacked(client: Any, attack: str) -> list[dict[str, Any]]:
    """The rows of one attack."""
    before = {what: measure(client) for what, measure in MEASURED.items()}
    client.call("exec", **payload(INSIDE + ATTACKS[attack]))
    well = wait_for(AT_WORK.exists)
    with entering(attack == "stopping what enters"):
        during = {what: measure(client) for what, measure in MEASURED.items()}
    going = client.call("show", name=ROGUE)["state"] in ("ready", "active")
    begin = time.perf_counter()
    client.call("stop", name=ROGUE)
    stopped = time.perf_counter() - begin
    for left in (*AT_WORK.parent.glob("f/*"), *AT_WORK.parent.glob("fill*"), AT_WORK):
        left.unlink(missing_ok=True)
    client.call("reopen", name=ROGUE)
    rows = []
    for what, took in during.items():
        name, good = f"{what} beside {attack}", sorted(each for each in took if each >= 0)
        quiet = statistics.median(before[what])
        rows += [
            row(f"{name}, p50", 1000 * statistics.median(good or [PATIENCE]), "ms", 1000 * quiet),
            row(f"{name}, p95", 1000 * p95(good or [PATIENCE]), "ms", 1000 * p95(before[what])),
            row(f"{name}, failed", len(took) - len(good), ""),
        ]
    rows.append(row(f"stop after {attack}", 1000 * stopped, "ms"))
    rows.append(row(f"{attack}: went on", float(well and going), ""))
    return rows


def payload(program: str) -> dict[str, Any]:
    argv = ["python3", "-I", "-S", "-c", program]
    return {"name": ROGUE, "argv": argv, "detach": True, "stdio": "null"}


def p95(values: list[float]) -> float:
    """The least of them that 95 % do not exceed."""
    return sorted(values)[-(-len(values) * 95 // 100) - 1]


def row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline}


def possible(attack: str) -> bool:
    """Without a disk of its own it would be the build host's; without weights nothing is shared."""
    needs = {"full disk": DISK, "every processor": CPU}
    return attack not in needs or needs[attack].exists()


def main() -> None:
    sys.path.insert(0, "/usr/lib/serai/python")
    from serai.runtime.client import Client  # noqa: PLC0415  # not for the servers

    wanted = [each for each in sys.argv[1:] if each in ATTACKS] or list(ATTACKS)
    rows = []
    with serving(GOOD), serving(EVIL), serving(DEAF), Client(timeout=DEADLINE) as client:
        for name in (ROGUE, WITNESS):
            client.call("create", name=name)
            rules = [f"127.0.0.1:{port}" for port in SERVERS]
            client.call("policy.allow", name=name, rules=rules)
        for attack in filter(possible, wanted):
            rows += attacked(client, attack)
            print(*(json.dumps(each) for each in rows[-8:]), sep="\n", file=sys.stderr, flush=True)
        for name in (ROGUE, WITNESS):
            client.call("remove", name=name)
    print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].isdigit():
        serve(int(sys.argv[1]))
    else:
        main()
