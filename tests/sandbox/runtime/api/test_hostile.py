"""Payloads that try to outlive their session, or to make the daemon wait for them."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serai.common import proc
from serai.runtime.client import Client
from serai.runtime.sandbox import cgroups
from tests.support.fake_vm import Vm
from tests.support.waiting import wait_for

HOSTILE = {
    # Threads that ask to be traced: their tracer is the daemon, which knows nothing of them.
    "traced threads": """
import ctypes, os, threading
libc = ctypes.CDLL(None)
threads = [threading.Thread(target=libc.ptrace, args=(0, 0, 0, 0)) for _ in range(5)]
for each in threads: each.start()
for each in threads: each.join()
os._exit(0)
""",
    "traced first thread": """
import ctypes, os
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
os.execv("/bin/true", ["true"])
""",
    # Siblings instead of children: they would be the daemon's.
    "siblings": """
import ctypes, os, platform
libc = ctypes.CDLL(None)
clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
made = [libc.syscall(clone, ctypes.c_ulong(0x8000 | 17), 0, 0, 0, 0) for _ in range(20)]
os._exit(any(pid >= 0 for pid in made))
""",
    "daemons": """
import os, time
if os.fork() == 0:
    os.setsid()
    while os.fork(): time.sleep(.01)
    time.sleep(1000)
""",
}
STOPPER = """
import os, time
last, end = os.getpid(), time.time() + 60
while time.time() < end:
    for pid in range(last + 1, last + 100):
        try:
            os.kill(pid, 19); last = pid; break
        except OSError: pass
"""


def left(vm: Vm) -> tuple[int, int, int, int]:
    """Children of the daemon, of those the ended ones, what the sessions run, and mounts."""
    assert vm.daemon is not None
    children = proc.children(vm.daemon.pid)
    return (
        len(children),
        sum(" Z " in Path(f"/proc/{pid}/stat").read_text() for pid in children),
        vm.processes(),
        len(Path("/proc/self/mounts").read_text().splitlines()),
    )


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hundred_hostile_execs_leave_nothing(vm: Vm, kind: str) -> None:
    before = left(vm)
    stays = kind == "traced first thread"  # stopped at its exec until it is killed

    def run(_: int) -> None:
        with vm.client() as client:
            done = client.exec(
                "one", ["/usr/bin/python3", "-c", HOSTILE[kind]], timeout=1 if stays else 20
            )
            assert done.timed_out == stays, done

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(run, range(int(os.environ.get("HOSTILE_EXECS", "100")))))) >= 100
    wait_for(lambda: left(vm) == before)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_session_with_a_hostile_payload_stops_whole(vm: Vm, name: str, kind: str) -> None:
    inside = cgroups.members(vm.cgroup / name)
    assert inside
    with vm.client() as client:
        run_on(vm, client, name, HOSTILE[kind])
        inside += cgroups.members(vm.cgroup / name)
        assert client.call("stop", name=name)["state"] == "stopped"
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inside))
    wait_for(lambda: not list(vm.cgroup.glob(name)))


def test_a_session_that_stops_whatever_enters_delays_no_other(vm: Vm, name: str, one: None) -> None:
    with vm.client() as client:
        run_on(vm, client, name, STOPPER)
    longest, statuses = 0.0, set[int]()
    # Stopped on its way in, or, a moment later, when it was there: that counts for its own limit.
    for _ in range(20):
        if statuses & {124, 125}:
            break
        entering = [start(vm, name) for _ in range(3)]
        try:
            while any(each.poll() is None for each in entering):
                begin = time.monotonic()
                assert vm.call("show", name="one")["state"] == "ready"
                longest = max(longest, time.monotonic() - begin)
        finally:
            for each in entering:
                each.kill()
                statuses.add(each.wait())
    assert statuses & {124, 125}, "none was stopped: no attack"
    assert longest < 2.5, "entering takes 3 s at most: others waited for it"


def run_on(vm: Vm, client: Client, name: str, program: str) -> None:
    """Run a program in the session and return when it is at work."""
    argv = ["/usr/bin/python3", "-c", f"open('at-work', 'w').close()\n{program}"]
    client.call("exec", name=name, argv=argv, detach=True, stdio="null")
    wait_for((vm.root / "sessions" / name / "at-work").exists)


def start(vm: Vm, name: str) -> subprocess.Popen[bytes]:
    words = vm.command("exec", name, "--timeout", "5", "--", "true")
    return subprocess.Popen(words, env=vm.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


WITHOUT_BRIDGE = """
import os, signal, socket
held = {port: socket.socket() for port in (3128, 1080)}
for pid in (3, 4): os.kill(pid, 9)
while held:
    for port in list(held):
        try: held[port].bind(("127.0.0.1", port)); held.pop(port).detach()
        except OSError: pass
open("held", "w").close()
signal.pause()
"""
"""Ends the bridge's processes, and holds its ports without listening on them."""


def test_sessions_without_a_bridge_do_not_delay_the_daemon(vm: Vm) -> None:
    names = [vm.call("create")["name"] for _ in range(3)]
    try:
        for name in names:
            with vm.client() as client:
                run_on(vm, client, name, WITHOUT_BRIDGE)
        for name in names:
            wait_for((vm.root / "sessions" / name / "held").exists)
        vm.kill()
        begin = time.monotonic()
        vm.start()
        assert time.monotonic() - begin < 15, "the deadline of one bridge"
        assert {vm.sessions()[name]["state"] for name in names} == {"ready"}
        for name in names:
            assert vm.serai("exec", name, "--", "true").returncode == 0
    finally:
        for name in names:
            vm.call("remove", name=name)
