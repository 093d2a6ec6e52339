"""Lets one session take all it can get of each of the kernel's pools, and prints one JSON array.

`invoke bench --only kernel --image NAME` sends it into a booted image. Run as ``python3 FILE
[POOL …]`` by root, on the standard library and the runtime alone. Three rows say of each pool how
much of it the session ``rogue`` got, how much memory that costs that no limit counts, and how many
things fail for others then. Details go to stderr. It judges nothing.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common.errors import SeraiError
from serai.runtime.client import Client

ROGUE, WITNESS = "rogue", "witness"
DEADLINE = 120.0

# Takes until it is refused, a minute has passed, or the VM has hardly any memory left: so much is
# proof enough, and the VM is to be asked afterwards.
TAKE = """
import array, ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
held, end = [], time.monotonic() + 60
def available():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) >> 10
def call(result):
    if result == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def take():
%s
taken, why = 0, "a minute"
try:
    while time.monotonic() < end:
        taken += take() or 1
        if taken %% 64 < 2 and available() < 300:
            why = "no memory is left"
            break
except OSError as error:
    why = errno.errorcode[error.errno]
print(json.dumps([taken, why]), flush=True)
signal.pause()
"""
POOLS = {
    "terminals": "held.extend(os.openpty())",
    "asynchronous I/O": "call(libc.syscall(206, 1024, ctypes.byref(ctypes.c_ulong())))",
    "inotify instances": "call(libc.inotify_init1(0))",
    "inotify watches": """
    if not held: held.append(call(libc.inotify_init1(0)))
    os.mkdir(f"w{taken}")
    call(libc.inotify_add_watch(held[0], f"w{taken}".encode(), 2))""",
    "keys": 'call(libc.syscall(248, b"user", f"k{taken}".encode(), b"x", 1, -3))',
    "TCP memory": """
    if not held: held.append(socket.create_server(("127.0.0.1", 0), backlog=4096))
    for _ in range(64):
        one = socket.create_connection(held[0].getsockname())
        two = held[0].accept()[0]
        for end_ in (one, two):
            end_.setblocking(False)
            try:
                while end_.send(bytes(1 << 16)): pass
            except BlockingIOError: pass
        held.extend((one, two))
    return 64""",
    "locks of files": """
    if taken % 500 == 0: held.append(os.open(f"l{taken}", os.O_RDWR | os.O_CREAT))
    fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, taken % 500 * 2)""",
    "pipes": """
    held.extend(os.pipe())
    os.write(held[-1], bytes(4096))""",
    "Unix socket pairs": """
    pair = socket.socketpair()
    pair[0].setblocking(False)
    try:
        while pair[0].send(bytes(1 << 16)): pass
    except BlockingIOError: pass
    held.extend(pair)""",
    "message queues": "call(libc.msgget(0, 0o1600))",
    "semaphores": "call(libc.semget(0, 32, 0o1600))",
    "open files": 'held.append(os.open("/dev/null", os.O_RDONLY))',
    "filters of system calls": """
    program = b"".join(struct.pack("=HBBI", 0, 0, 0, 0) for _ in range(4000))
    program += struct.pack("=HBBI", 6, 0, 0, 0x7fff0000)
    class Program(ctypes.Structure): _fields_ = (("n", ctypes.c_ushort), ("at", ctypes.c_char_p))
    header = Program(len(program) // 8, program)
    back, forth = os.pipe()
    if os.fork() == 0:
        try:
            for _ in range(7): call(libc.prctl(22, 2, ctypes.byref(header), 0, 0))
            os.write(forth, b"y")
        except OSError as error: os.write(forth, struct.pack("=i", error.errno))
        signal.pause()
    said = os.read(back, 4)
    os.close(back), os.close(forth)
    if said != b"y": raise OSError(struct.unpack("=i", said)[0], "")
    return 7""",
}


def program(pool: str) -> str:
    """What the rogue runs."""
    return TAKE % textwrap.indent(textwrap.dedent(POOLS[pool]).strip(), "    ")


def memory() -> int:
    """MiB that the VM has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) >> 10


def charged() -> int:
    """MiB that the rogue is charged for; none if it has ended."""
    unit = f"serai-session@{ROGUE}.service"
    show = ["/usr/bin/systemctl", "show", "-P", "ControlGroup", unit]
    cgroup = subprocess.check_output(show, text=True).strip()
    file = Path(f"/sys/fs/cgroup{cgroup}/memory.current")
    return int(file.read_text()) >> 20 if cgroup and file.exists() else 0


def attempt(action: Callable[[], Any]) -> str:
    """What is wrong with it; nothing if it works."""
    try:
        done = action()
    except (SeraiError, OSError) as error:
        return str(error)
    status = getattr(done, "status", 0)
    return f"status {status}: {done.stderr.decode()[-200:]}" if status else ""


def taken(client: Client, pool: str) -> list[dict[str, Any]]:
    """What one session got of a pool, what it cost, and what fails for others."""
    before, own = memory(), charged()
    argv = ["python3", "-c", program(pool)]
    number = client.ask("exec", {"name": ROGUE, "argv": argv, "stdio": "stream"})
    count, why = first_output(client, number)
    lost = before - memory() - (charged() - own)
    use = "import os, socket; os.openpty(); os.pipe(); socket.socket()"
    with Client(timeout=DEADLINE) as other:
        tried = {
            "exec": lambda: other.exec(WITNESS, ["true"], timeout=60),
            "terminal": lambda: other.exec(WITNESS, ["true"], timeout=60, tty=True),
            "python": lambda: other.exec(WITNESS, ["python3", "-c", use], timeout=60),
            "create": lambda: other.call("create", name="late"),
            "stop": lambda: other.call("stop", name=ROGUE),
        }
        wrong = {name: said for name, action in tried.items() if (said := attempt(action))}
        for name in (ROGUE, "late"):
            attempt(partial(other.call, "remove", name=name))
    print(f"{pool}: {count}, then {why}; {lost} MiB; {wrong}", file=sys.stderr, flush=True)
    return [
        row(f"{pool}: taken, then {why}", count, ""),
        row(f"{pool}: memory of nobody's", lost, "MiB"),
        row(f"{pool}: fails for others", len(wrong), ""),
    ]


def row(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": None}


def first_output(client: Client, number: int) -> tuple[int, str]:
    """The first that the payload writes, or none and how it ended."""
    while True:
        message = client.message()
        if message.get("method") == "exec.output" and message["params"]["stream"] == "stdout":
            count, why = json.loads(base64.b64decode(message["params"]["data"]))
            return count, why
        if message.get("id") == number:
            return 0, json.dumps(message.get("result") or message.get("error"))


def main() -> None:
    rows = []
    with Client(timeout=DEADLINE) as client:
        client.call("create", name=WITNESS)
    for pool in [each for each in sys.argv[1:] if each in POOLS] or POOLS:
        with Client(timeout=DEADLINE) as client:
            client.call("create", name=ROGUE)
            rows += taken(client, pool)
    with Client(timeout=DEADLINE) as client:
        client.call("remove", name=WITNESS)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
