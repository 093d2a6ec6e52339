"""Payloads that try to outlive their session, or to make the daemon wait for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOSPC
from pathlib import Path

import pytest

from serai.common import proc
from serai.common.errors import SeraiError
from serai.runtime.client import Client
from serai.runtime.sandbox import cgroups
from serai.runtime.sandbox.processes import TERMINALS
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
import os, signal, time
if os.fork() == 0:
    os.setsid()
    while os.fork(): time.sleep(.01)
    signal.pause()
""",
    # Stopped in two sessions of the kernel's: neither SIGTERM nor SIGHUP is taken.
    "stopped": """
import os, signal
if os.fork() == 0: os.setsid()
os.kill(0, signal.SIGSTOP)
""",
    "closed descriptors": """
import os, signal
os.closerange(0, 100)
if os.fork() == 0: signal.pause()
os._exit(0)
""",
}
STAYS = {"traced first thread", "stopped"}  # until they are killed
LASTING = """
import ctypes, os, signal, threading
def traced():
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    signal.pause()
for _ in range(20): threading.Thread(target=traced).start()
signal.pause()
"""
STOPPER = """
import os, time
last, end = os.getpid(), time.time() + 60
while time.time() < end:
    for pid in range(last + 1, last + 100):
        try:
            os.kill(pid, 19); last = pid; break
        except OSError: pass
"""


def ended(pid: int) -> bool:
    """Whether nobody has waited for it yet; one that is gone meanwhile has been."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def left(vm: Vm) -> tuple[int, int, int, int]:
    """Children of the daemon, of those the ended ones, what the sessions run, and their mounts."""
    assert vm.daemon is not None
    children = proc.children(vm.daemon.pid)
    return (
        len(children),
        sum(map(ended, children)),
        vm.processes(),
        Path("/proc/self/mounts").read_text().count(f"{vm.root}/"),
    )


def no_more(vm: Vm, before: tuple[int, int, int, int]) -> bool:
    """Whether no more is left than before; what ended late counted then."""
    return all(now <= then for now, then in zip(left(vm), before, strict=True))


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("kind", HOSTILE)
def test_many_hostile_execs_leave_nothing(vm: Vm, kind: str) -> None:
    before = left(vm)
    stays = kind in STAYS

    def run(_: int) -> None:
        with vm.client() as client:
            done = client.exec(
                "one", ["/usr/bin/python3", "-c", HOSTILE[kind]], timeout=1 if stays else 20
            )
            assert done.timed_out == stays, done

    with ThreadPoolExecutor(32 if stays else 8) as pool:
        list(pool.map(run, range(int(os.environ.get("HOSTILE_EXECS", "40")))))
    wait_for(lambda: no_more(vm, before), told=lambda: f"{before}, now {left(vm)}")


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
    # Stopped on its way in, or, a moment later, when it was there: that counts for its own limit.
    answers, statuses = 0, set[int]()
    for _ in range(20):
        if statuses & {124, 125}:
            break
        answers, entering = 0, [start(vm, name) for _ in range(3)]
        try:
            while any(each.poll() is None for each in entering):
                assert vm.call("show", name="one")["state"] == "ready"
                answers += 1
        finally:
            for each in entering:
                each.kill()
                statuses.add(each.wait())
    assert statuses & {124, 125}, "none was stopped: no attack"
    assert answers > 2 * len(entering), "one answer for each that enters: others waited for it"


# The daemon is late: threads have ended, and been swept for, before it looks at their payload.
LATE = """
import asyncio
from pathlib import Path
from serai.runtime.sessions.payloads.payloads import Payloads
begin = Payloads._ended
def over(pid):
    return any(" Z " in each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat"))
async def late(self, entered):
    while not over(entered.pid) or self._sweep is not None: await asyncio.sleep(.01)
    await begin(self, entered)
Payloads._ended = late
"""
# It gives up at once: what it has killed is still to be taken away.
HASTY = """
from serai.runtime.sessions.payloads import payloads
payloads.GRACE = payloads.KILLED = 0
"""


@pytest.fixture
def weakened(vm: Vm, one: None, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """The same VM with a daemon that is weakened in one point."""
    assert vm.stop() == 0
    vm.start(weaken=request.param)
    yield vm
    assert vm.stop() == 0
    vm.start()


@pytest.mark.parametrize("weakened", [LATE], indirect=True, ids=["late"])
def test_threads_that_end_before_the_daemon_looks_are_taken_away(weakened: Vm) -> None:
    with weakened.client() as client:
        program = HOSTILE["traced threads"]
        done = client.exec("one", ["/usr/bin/python3", "-c", program], timeout=20)
    assert not done.timed_out


@pytest.mark.parametrize("weakened", [HASTY], indirect=True, ids=["hasty"])
def test_a_payload_that_is_given_up_is_still_taken_away(weakened: Vm) -> None:
    before = left(weakened)
    with weakened.client() as client, pytest.raises(SeraiError, match="does not end"):
        client.exec("one", ["/usr/bin/python3", "-c", LASTING], timeout=1)
    wait_for(lambda: no_more(weakened, before), told=lambda: f"{before}, now {left(weakened)}")


OPENER = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
try:
    for count in range({TERMINALS + 50}): os.openpty()
except OSError as error: print(count, error.errno)
else: print("no end")
"""
LIMITLESS = """
from serai.runtime.sandbox import processes
processes.limit_terminals = lambda init: None
"""


def opened(vm: Vm) -> bytes:
    """What a session says that opens terminals, where another one opens one as well."""
    name = vm.call("create")["name"]
    try:
        with vm.client() as client:
            said = client.exec(name, ["/usr/bin/python3", "-c", OPENER], timeout=20).stdout
            assert client.exec("one", ["true"], timeout=20, tty=True).status == 0
        return said.strip()
    finally:
        vm.call("remove", name=name)


def test_a_session_has_so_many_terminals(vm: Vm, one: None) -> None:
    assert opened(vm) == b"%d %d" % (TERMINALS, ENOSPC)


@pytest.mark.parametrize("weakened", [LIMITLESS], indirect=True, ids=["limitless"])
def test_without_that_it_has_all_of_the_vms(weakened: Vm) -> None:
    assert opened(weakened) == b"no end"


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
for pid in (2, 3): os.kill(pid, 9)
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
        vm.start()  # in less time than the deadlines of three bridges take, one after another
        assert {vm.sessions()[name]["state"] for name in names} == {"ready"}
        for name in names:
            assert vm.serai("exec", name, "--", "true").returncode == 0
    finally:
        for name in names:
            vm.call("remove", name=name)
