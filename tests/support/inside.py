"""Programs that tests send into the machine: ``python3 - NAME`` runs a function, prints JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.runtime.client import Client

CONTROL = "/run/serai/control.sock"
MANY = 200
DEADLINE = 60.0
# asyncio's pool keeps its threads, and begins them when there is work: where memory is scarce,
# sessiond looks at sockets in one. A leak would be one a session.
THREADS = 1 + min(32, (os.cpu_count() or 1) + 4)


def said(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def daemon() -> int:
    return int(said("systemctl", "show", "-P", "MainPID", "serai-sessiond.service"))


def cgroups() -> int:
    return sum(1 for _ in os.walk("/sys/fs/cgroup/serai.slice"))


def counts() -> dict[str, int]:
    """What a leak would be found in."""
    pid = daemon()
    running = [each for each in os.listdir("/proc") if each.isdigit()]
    kernel_or_udev = [each for each in running if comm(each) in ("", "(udev-worker)", "python3")]
    return {
        "processes": len(running) - len(kernel_or_udev),
        "mounts": len(Path("/proc/1/mountinfo").read_text().splitlines()),
        "mounts of the daemon": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        "units": said("systemctl", "list-units", "--all", "--no-legend").count("serai-session@"),
        "cgroups": cgroups(),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": max(len(os.listdir(f"/proc/{pid}/task")), THREADS),
        "published": sum(
            len(os.listdir(f"/run/serai/{each}")) for each in ("sessions", "gate", "certificates")
        ),
    }


def grown(before: dict[str, int]) -> dict[str, int]:
    """What there is more of than before."""
    return {key: count for key, count in counts().items() if count > before[key]}


def comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def many() -> dict[str, Any]:
    """Create, use and archive many sessions, all of them at once running."""
    with Client() as client:
        # Once before counting: what a daemon opens once is no leak.
        client.call("create", name="warm-up")
        client.exec("warm-up", ["true"])
        client.call("archive", name="warm-up")
        before = counts()
        names = [client.call("create")["name"] for _ in range(MANY)]
        uids = {each["uid"] for each in client.call("list")["sessions"]}
        at_most = counts()
        owners = [client.exec(name, ["id", "-un"]).stdout.decode().strip() for name in names]
        for name in names:
            client.call("archive", name=name)
        archived = [each["state"] for each in client.call("list")["sessions"]].count("archived")
        # A process or a cgroup is gone a moment after its unit; what ended late counted before.
        # Looked at once more, there may be a process that has nothing to do with us.
        more = {} if wait_for(lambda: not grown(before)) else grown(before)
    return {
        "before": before,
        "at_most": at_most,
        "more": more,
        "uids": len(uids),
        "own": owners == names,
        "archived": archived,
    }


WRONG_NAMES = [
    *("../x", "-rf", "--help", "a" * 300, "a" * 32, "", ".", "..", "/", "a/b", "a\0b", "a b", "A"),
    *("ünïcode", "1a", "a-", "-a", "a--b", "root", "nobody", "serai", "a\nb", "a;b", "$(a)"),
]
WRONG_VALUES: list[Any] = [
    None,
    1,
    -1.5,
    True,
    [],
    {},
    [[]],
    {"a": {}},
    "x" * 5000,
    "\0",
    [1],
    "../x",
]
METHODS = {
    "create": ("name", "labels", "request_id", "profile"),
    "list": (),
    "show": ("name",),
    "switch": ("name", "keep_running"),
    "stop": ("name",),
    "archive": ("name",),
    "reopen": ("name",),
    "remove": ("name",),
    "gc": ("keep_days", "keep_free", "dry_run"),
    "subscribe": (),
    "exec": ("name", "argv", "env", "cwd", "timeout", "tty", "detach", "stdio", "rows", "columns"),
    "exec.signal": ("exec", "signal"),
    "exec.input": ("exec", "data", "eof"),
    "exec.resize": ("exec", "rows", "columns"),
    "policy.show": ("name",),
    "policy.set": ("name", "profile", "allow", "deny", "cut"),
    "policy.allow": ("name", "rules", "cut"),
    "policy.deny": ("name", "rules", "cut"),
    "policy.explain": ("name", "target"),
    "audit": ("after", "limit", "session"),
    "audit.verify": (),
}
VALID = {
    **{"name": "bystander", "argv": ["true"], "exec": "1", "signal": "TERM", "dry_run": True},
    **{"rules": ["example.com"], "target": "example.com"},
}


def ask(data: bytes) -> dict[str, Any] | None:
    """The first line that the daemon answers to ``data``; None if it hangs up instead."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(CONTROL)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            return None
        got = b""
        while b"\n" not in got:
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                return None
            if not part:
                return None
            got += part
        answer: dict[str, Any] = json.loads(got.split(b"\n")[0])
        return answer


def request(method: Any, params: Any, number: Any = 1) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def bad_input() -> dict[str, Any]:
    """Everything a client must not do; what was accepted, and whether the daemon is the same."""
    pid = daemon()
    with Client() as client:
        client.call("create", name="bystander")
    accepted = []
    for method, keys in METHODS.items():
        valid = {key: VALID[key] for key in keys if key in VALID}
        wrong: list[Any] = [{**valid, "unknown": 1}, [1], "text", 7, None]
        for key in keys:
            kinds = [value for value in WRONG_VALUES if not sound(method, key, value)]
            wrong += [{**valid, key: value} for value in kinds]
        if "name" in keys:
            wrong += [{**valid, "name": name} for name in WRONG_NAMES]
        for params in wrong:
            answer = ask(request(method, params))
            if answer is not None and "error" not in answer and not harmless(method, params):
                accepted.append([method, repr(params)[:80]])
    for junk in (b"\n", b"{\n", b"[]\n", b"nul\n", b"\xff\xfe\n", b"[" * 100000 + b"\n", b"{}\n",
                 b'{"jsonrpc": "2.0", "id": 1e999, "method": "list"}\n',
                 b'{"jsonrpc": "2.0", "id": {}, "method": "list"}\n',
                 request("nonesuch", {}), request(3, {}), request("list", {})[:-20],
                 b'{"a": "' + b"x" * (4 << 20)):  # fmt: skip
        answer = ask(junk)
        if answer is not None and "error" not in answer:
            accepted.append(["junk", repr(junk)[:60]])
    with Client() as client:
        states = {each["name"]: each["state"] for each in client.call("list")["sessions"]}
    return {"accepted": accepted, "same": daemon() == pid, "states": states}


def sound(method: str, key: str, value: Any) -> bool:
    """Whether this value, odd as it is, is allowed there."""
    optional = {
        "create": ("name", "request_id", "profile"),
        "audit": ("after", "session"),
        "exec": ("timeout",),
        "gc": ("keep_days", "keep_free"),
    }
    if value is None:
        return key in optional.get(method, ())
    if key in ("labels", "env"):
        return isinstance(value, dict) and not value
    if key in ("allow", "deny", "rules") and isinstance(value, list):
        return not value
    if key == "request_id" or (method, key) == ("audit", "session"):
        return isinstance(value, str)
    return value is True and key in ("keep_running", "dry_run", "tty", "detach", "eof", "cut")


def harmless(method: str, params: Any) -> bool:
    """A number where one is wanted, no parameters where none are, and the like."""
    if not params:
        return True
    values = params.values() if isinstance(params, dict) else ()
    numbers = ("gc", "exec", "exec.resize", "audit")
    return method in numbers and 1 in values and "unknown" not in params


def hang_ups() -> dict[str, Any]:
    """Clients that go in the middle of something, then a hundred at once."""
    with Client() as client:
        client.call("create", name="stream")
    pid, before = daemon(), counts()["descriptors"]
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(CONTROL)
            sock.sendall(request("exec", {"name": "stream", "argv": ["yes"]}))
            sock.recv(100)
    left = wait_for(lambda: "yes" not in said("ps", "-eo", "comm").split())
    errors: list[str] = []

    def one() -> None:
        try:
            with Client() as client:
                done = client.exec("stream", ["echo", "here"])
                if done.stdout != b"here\n":
                    errors.append(repr(done))
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled = wait_for(lambda: counts()["descriptors"] <= before)
    return {"left": left, "errors": errors, "same": daemon() == pid, "settled": settled}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
