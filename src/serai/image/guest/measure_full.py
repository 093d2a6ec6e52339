"""Has two sessions fill the sessions disk, to the last byte and inode that they get.

`invoke bench --only full --image NAME` sends it into a booted image and gets one JSON array. Run as
``python3 FILE`` by root, on the standard library and the runtime alone. Each row counts what went
wrong for others: archives that changed, requests and creates that failed, who is not in the log.
First the sessions have their quotas, and then none, so that nothing at all is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common.errors import SeraiError
from serai.runtime.client import Client

SESSIONS = Path("/sessions")
KEPT, ROGUES, WITNESS = ("kept-1", "kept-2"), ("rogue-1", "rogue-2"), "witness"
REQUESTS, CREATES = 20, 4
DEADLINE = 600.0
COUNTED = ("archives changed", "archives gone", "requests failed", "requests not noted")
TITLE = ", without quotas"
LOOK = 90.0  # seconds; sessiond looks at the disk every 30
SETTINGS = Path("/etc/serai/session.toml")
UNLIMITED = '[disk]\nquota = "infinity"\nfiles = "infinity"\n'

MAKE = """
import os
for number in range(200):
    with open(f"file-{number}", "wb") as file: file.write(os.urandom(100 << 10))
"""
# Until it is refused; what others give back, or a new share, is taken too. Names come first: where
# no byte is left, a directory cannot grow, and most inodes would stay free.
FILL = """
import os, time
open("begun", "w").close()
file = open("fill", "wb", buffering=0)
os.mkdir("names")
def fill():
    for size in (1 << 20, 4096, 1):
        try:
            while True: file.write(bytes(size))
        except OSError: pass
def names():
    try:
        for number in range(len(os.listdir("names")), 10 ** 9): open(f"names/{number}", "w").close()
    except OSError: pass
while True:
    names()
    fill()
    try: os.rename("begun", "at-work")
    except FileNotFoundError: pass
    time.sleep(1)
"""
# Through the gate: 127.0.0.1 is not asked of a proxy by itself.
ASK = """
import sys, urllib.request
class Gate(urllib.request.ProxyHandler):
    def http_open(self, request):
        request.set_proxy("127.0.0.1:3128", "http")
opener = urllib.request.build_opener(Gate({}))
well = 0
for _ in range(%d):
    try:
        with opener.open(sys.argv[1], timeout=60) as answer:
            well += answer.read() == b"small"
    except OSError as error: print(error, file=sys.stderr)
print(well)
"""


class Origin(BaseHTTPRequestHandler):
    """A server of the VM's own."""

    def do_GET(self) -> None:  # its name
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"small")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def digest(folder: Path) -> str:
    """Of all names, owners, modes and bytes in a directory."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        found.update(f"{path.relative_to(folder)} {info.st_mode} {info.st_uid}\n".encode())
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


def home(name: str) -> Path:
    """Where the home of an archived session lies."""
    return next(path for path in SESSIONS.rglob(f"*{name}*") if path.is_dir())


def row(name: str, value: float, unit: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": None}


def wait_for(condition: Callable[[], bool], deadline: float = DEADLINE) -> bool:
    end = time.monotonic() + deadline
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return holds


def created(client: Client, number: int) -> bool:
    """Whether a session can be made, and can write a little."""
    name = f"late-{number}"
    try:
        client.call("create", name=name)
        done = client.exec(name, ["sh", "-c", "echo well >file && sync file && cat file"])
    except SeraiError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    return done.stdout == b"well\n"


def journal() -> str:
    """What sessiond has said in this boot."""
    argv = ["/usr/bin/journalctl", "--boot", "--no-pager", "--unit=serai-sessiond.service"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def noted() -> int:
    """How many lines the audit log has."""
    return sum(
        len(file.read_bytes().splitlines()) for file in (SESSIONS / ".serai/audit").iterdir()
    )


def unlimited(settings: str) -> str:
    """The same session.toml without quotas."""
    rest = re.sub(r"(?m)^(quota|files) *=.*\n", "", settings)
    return rest.replace("[disk]\n", UNLIMITED) if "[disk]\n" in rest else f"{rest}\n{UNLIMITED}"


def full() -> bool:
    """Whether nothing at all is left for sessions."""
    disk = os.statvfs(SESSIONS)
    return disk.f_bavail == 0 and disk.f_favail == 0


def others(client: Client, place: str, kept: dict[str, str], title: str) -> list[dict[str, Any]]:
    """What goes wrong for others now."""
    disk, before = os.statvfs(SESSIONS), noted()
    done = client.exec(WITNESS, ["python3", "-c", ASK % REQUESTS, f"http://{place}/"])
    missing = max(0, 2 * REQUESTS - (noted() - before))
    print(done.stderr.decode()[-500:], file=sys.stderr)
    states = {each["name"]: each["state"] for each in client.call("list")["sessions"]}
    return [
        row(f"disk used{title}", 100 * (1 - disk.f_bavail / disk.f_blocks), "%"),
        row(f"inodes used{title}", 100 * (1 - disk.f_favail / disk.f_files), "%"),
        row(f"archives changed{title}", sum(digest(home(name)) != kept[name] for name in KEPT)),
        row(f"archives gone{title}", sum(states.get(name) != "archived" for name in KEPT)),
        row(f"requests failed{title}", REQUESTS - int(done.stdout or 0)),
        row(f"requests not noted{title}", missing),
    ]


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    place = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Client(timeout=DEADLINE) as client:
        for name in KEPT:
            client.call("create", name=name)
            client.exec(name, ["python3", "-c", MAKE])
            client.call("archive", name=name)
        kept = {name: digest(home(name)) for name in KEPT}
        for name in (*ROGUES, WITNESS):
            client.call("create", name=name)
        client.call("policy.allow", name=WITNESS, rules=[place])
        for name in ROGUES:
            argv = ["python3", "-c", FILL]
            client.call("exec", name=name, argv=argv, detach=True, stdio="null")
        filled = all(wait_for((SESSIONS / name / "at-work").exists) for name in ROGUES)
        rows = [row("both fill what they get", float(filled)), *others(client, place, kept, "")]
        rows.append(row("creates failed", sum(not created(client, n) for n in range(CREATES))))
    SETTINGS.write_text(unlimited(SETTINGS.read_text()))
    subprocess.run(["/usr/bin/systemctl", "restart", "serai-sessiond.service"], check=True)
    with Client(timeout=DEADLINE) as client:
        rows.append(row("both fill all there is", float(wait_for(full))))
        rows += others(client, place, kept, TITLE)
        wait_for(lambda: all(name in journal() for name in ROGUES), LOOK)
        said = [line for line in journal().splitlines() if "the sessions disk is" in line]
        print(*said[-2:], sep="\n", file=sys.stderr)
        unnamed = sum(not any(name in line for line in said) for name in ROGUES)
        rows.append(row(f"not named in the log{TITLE}", unnamed))
        for each in client.call("list")["sessions"]:
            client.call("remove", name=each["name"])
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
