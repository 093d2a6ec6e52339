"""Entering a real sandbox: what a payload is left with, how it ends, and what nobody can steal."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EACCES, ENOENT
from pathlib import Path

import pytest

from serai.common import linux, proc
from serai.common.errors import TIMEOUT
from serai.runtime.sandbox import bwrap, enter, usher
from tests.support.descriptors import open_ones
from tests.support.sandbox import (
    Room,
    build_filters,
    heard_out,
    make_session,
    make_top,
    open_room,
    reap,
)
from tests.support.watching import Watcher

FIELDS = r"(Uid|Gid|Groups|SigBlk|SigIgn|Cap\w+|NoNewPrivs|Seccomp|Seccomp_filters):[ \t]*(.*)"


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    with make_top() as top, open_room(make_session(top, "blue", 40002)) as opened:
        yield opened


@pytest.fixture(params=["forked", "door"])
def way(room: Room, request: pytest.FixtureRequest) -> Iterator[Room]:
    """The room, entered by a fork of this process or through an usher of its own."""
    if request.param == "forked":
        yield room
    else:
        with enter.Door() as door:
            yield dataclasses.replace(room, door=door)


def status(room: Room, filters: tuple[bytes, ...] | None = None) -> dict[str, str]:
    """/proc/self/status of a payload; proc_pid_status(5)."""
    return dict(re.findall(FIELDS, room.run(["cat", "/proc/self/status"], filters=filters).output))


NOTHING = "0000000000000000"
CAPABILITIES = {f"Cap{kind}": NOTHING for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
HARMLESS = {
    **CAPABILITIES,
    "Uid": "40002\t40002\t40002\t40002",
    "Gid": "40002\t40002\t40002\t40002",
    "Groups": "",
    "SigBlk": NOTHING,
    "SigIgn": NOTHING,
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Seccomp_filters": "2",
}


def test_a_payload_has_no_privileges(way: Room) -> None:
    assert status(way) == HARMLESS


@pytest.mark.parametrize(
    ("step", "red"),
    [
        ("drop_capabilities", {"CapBnd"}),
        ("default_signals", {"SigIgn"}),
        ("set_no_new_privileges", {"NoNewPrivs", "Seccomp", "Seccomp_filters"}),
    ],
)
def test_each_step_is_what_takes_privileges_away(
    room: Room, monkeypatch: pytest.MonkeyPatch, step: str, red: set[str]
) -> None:
    monkeypatch.setattr(linux, step, lambda *_: None)
    if step == "set_no_new_privileges":
        monkeypatch.setattr(linux, "confine_tracing", lambda: None)
    # Without no-new-privs and capabilities the kernel takes no filter at all. seccomp(2)
    answer = status(room, () if "Seccomp" in red else None)
    assert {name for name in HARMLESS if answer[name] != HARMLESS[name]} == red


def test_a_payload_never_starts_with_a_filter_missing(room: Room, tmp_path: Path) -> None:
    (tmp_path / "baseline.bpf").write_bytes(build_filters()[0])
    with pytest.raises(Exception, match="unix-block"):
        enter.load_filters(tmp_path, "strict")
    (tmp_path / "unix-block.bpf").write_bytes(build_filters()[1][:-3])
    with pytest.raises(Exception, match="unix-block"):
        enter.load_filters(tmp_path, "strict")
    (tmp_path / "unix-block.bpf").write_bytes(build_filters()[1])
    assert enter.load_filters(tmp_path, "strict") == build_filters()
    with pytest.raises(enter.EnterError) as caught:
        room.run(["true"], filters=(build_filters()[0], bytes(8)))
    assert caught.value.stage == "filter"


def test_nothing_but_three_descriptors_is_open(way: Room) -> None:
    secret = os.open("/etc/shadow", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        listing = way.run(["ls", "/proc/self/fd"]).output.split()
    finally:
        os.close(secret)
    assert listing == ["0", "1", "2", "3"], "and the one that ls has open itself"


def test_environment_folder_mask_session_and_limits(way: Room) -> None:
    os.environ["SERAI_TEST_SECRET"] = "daemon's own"
    try:
        env = way.run(["env"]).output.splitlines()
    finally:
        del os.environ["SERAI_TEST_SECRET"]
    wanted = bwrap.environment(way.settings, way.session)
    assert sorted(env) == sorted(f"{name}={value}" for name, value in wanted.items())
    assert way.run(["pwd"]).output.strip() == str(way.session.home)
    assert way.run(["pwd"], cwd="/usr").output.strip() == "/usr"
    shown = way.run(
        ["bash", "-c", "umask; ulimit -n; ulimit -u; ulimit -s; ulimit -l; mktemp"],
    ).output.split("\n")
    limits = way.settings.limits
    kib = [str(limits.stack >> 10), str(limits.memlock >> 10)]
    assert shown[:5] == ["0022", str(limits.nofile), str(limits.nproc), *kib]
    assert shown[5].startswith(f"{way.session.home}/tmp/")
    pid, rest = way.run(["cat", "/proc/self/stat"]).output.split(" ", 1)
    _, _, group, session, tty = rest.rsplit(") ", 1)[1].split()[:5]
    assert (group, session, tty) == (pid, pid, "0"), "a session of its own without a terminal"


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -PIPE $$", -signal.SIGPIPE),
    ],
)
def test_the_command_s_own_status_is_what_the_caller_reaps(
    room: Room, command: str, wanted: int
) -> None:
    assert room.run(["bash", "-c", command]).status == wanted


def test_what_can_not_be_executed_is_an_error_and_leaves_nothing(way: Room) -> None:
    script = way.session.home / "no-program"
    script.write_text("")
    locked = way.session.home / "locked"
    locked.mkdir(mode=0o700, exist_ok=True)
    before = own()
    for argv, cwd, stage, errno in (
        (["nowhere"], "", "exec", ENOENT),
        (["/nowhere/at-all"], "", "exec", ENOENT),
        ([str(script)], "", "exec", EACCES),
        (["/usr"], "", "exec", EACCES),
        (["true"], "/nowhere", "cwd", ENOENT),
        (["true"], str(locked), "cwd", EACCES),
    ):
        with pytest.raises(enter.EnterError) as caught:
            way.run(argv, cwd=cwd)
        assert (caught.value.stage, caught.value.errno) == (stage, errno), argv
    assert own() == before


def own() -> tuple[set[str], set[int]]:
    """The descriptors and the children of this process."""
    heard_out()
    return open_ones(), set(proc.children(os.getpid()))


def test_a_way_out_is_no_standard_input(room: Room) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    master, slave = os.openpty()
    folder = os.open("/", os.O_RDONLY)
    path = os.open("/etc/passwd", os.O_PATH)
    try:
        for fd in (master, slave, folder, path):
            with pytest.raises(enter.EnterError):
                room.start(["true"], (fd, null, null))
            with pytest.raises(enter.EnterError):
                room.start(["true"], (null, null, fd))
        assert reap(room.start(["true"], (null, null, null))) == 0
    finally:
        for fd in (null, master, slave, folder, path):
            os.close(fd)


def test_standard_descriptors_may_overlap_with_the_ones_used_inside(way: Room) -> None:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    saved = [os.dup(number) for number in range(3)]
    try:
        os.dup2(write, 0)  # the payload's 2 is our 0, its 1 our 2
        os.dup2(write, 2)
        entered = way.start(["sh", "-c", "echo out; echo err >&2"], (null, 2, 0))
    finally:
        for number, copy in enumerate(saved):
            os.dup2(copy, number)
            os.close(copy)
    assert reap(entered) == 0
    os.close(write)
    os.close(null)
    with open(read) as file:  # noqa: PTH123
        assert file.read() == "out\nerr\n"


# Not bash: a signal that comes while it starts a command waits until that has ended.
HAS_A_TERMINAL = """\
import os, signal, time
def caught(*_):
    os.write(1, b"caught")
    os._exit(9)
signal.signal(signal.SIGINT, caught)
own = os.open("/dev/tty", os.O_RDWR)
print(os.ttyname(0), os.isatty(0), os.isatty(2), os.tcgetpgrp(own) == os.getpid(), flush=True)
print(*os.get_terminal_size(0), flush=True)
for _ in range(600):
    time.sleep(0.1)
"""


def test_a_terminal_comes_from_the_sandbox(way: Room) -> None:
    entered = way.start(["python3", "-c", HAS_A_TERMINAL], None)
    assert entered.pty is not None
    # Its size it has from the beginning: nobody need have taken the terminal.
    seen = read_until(entered.pty, "\r\n", times=2)
    assert "/dev/pts/0 True True True" in seen and "80 24" in seen
    os.write(entered.pty, b"\x03")
    seen = read_until(entered.pty, "caught")
    assert reap(entered) == 9, seen
    os.close(entered.pty)


def test_a_payload_can_not_type_into_its_terminal(room: Room) -> None:
    """TIOCSTI through the filter, and what happens without it where the kernel still allows it."""
    code = "import fcntl; fcntl.ioctl(0, 0x5412, b'x')"
    entered = room.start(["python3", "-c", code], None)
    assert entered.pty is not None
    assert "PermissionError" in read_until(entered.pty, "Error")
    assert reap(entered) == 1
    os.close(entered.pty)


def read_until(fd: int, text: str, times: int = 1) -> str:
    seen = ""
    end = time.monotonic() + 30
    while seen.count(text) < times:
        assert time.monotonic() < end, seen
        try:
            seen += os.read(fd, 4096).decode()
        except OSError:  # the other side is closed
            break
    assert seen.count(text) >= times, seen
    return seen


LOOK = """\
import os
def stolen(pid):
    try:
        if "python" in os.readlink(f"/proc/{pid}/exe"):
            open(f"/proc/{pid}/mem", "rb").close()
            return True
    except OSError: pass
    return False
def look():
    others = {pid for pid in os.listdir("/proc") if pid.isdigit()} - {str(os.getpid())}
    return {"stolen"} if any(map(stolen, others)) else set()
"""


def steal(room: Room, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a process of the same UID gets of one that is held just before exec."""
    # Without filters and Landlock: dumpability alone protects the daemon's memory.
    monkeypatch.setattr(linux, "confine_tracing", lambda: None)
    watcher, original = Watcher(room, LOOK, filters=()), usher._execute

    def late(plan: usher.Plan) -> None:
        watcher.looked()
        original(plan)

    monkeypatch.setattr(usher, "_execute", late)
    null = os.open("/dev/null", os.O_RDWR)
    assert reap(room.start(["true"], (null, null, null), filters=())) == 0
    os.close(null)
    return watcher.seen()


def test_nobody_reads_the_daemon_s_memory_while_it_enters(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steal(room, monkeypatch) == set()


def test_it_is_dumpability_that_protects_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_and_open(last: int) -> None:
        original(last)
        linux._libc.prctl(linux._PR_SET_DUMPABLE, 1, 0, 0, 0)

    original: Callable[[int], None] = linux.drop_capabilities
    monkeypatch.setattr(linux, "drop_capabilities", drop_and_open)
    assert steal(room, monkeypatch) == {"stolen"}


def cgroup_tops() -> list[Path]:
    """The roots of cgroup v2 and of systemd's own hierarchy of v1, as far as there are any."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(
        {
            Path(line.split()[4])
            for line in lines
            if " - cgroup2 " in line or line.endswith("name=systemd")
        }
    )


def test_a_payload_runs_in_its_cgroup(room: Room) -> None:
    assert cgroup_tops()
    null = os.open("/dev/null", os.O_RDWR)
    for top in cgroup_tops():
        cgroup = Path(tempfile.mkdtemp(prefix="serai-test-", dir=top))
        target = enter.Target(room.target.pid, room.target.uid, room.target.gid, cgroup)
        try:
            entered = room.start(["/bin/sleep", "60"], (null, null, null), cwd="/", target=target)
            assert (cgroup / "cgroup.procs").read_text().split() == [str(entered.pid)]
            os.kill(entered.pid, signal.SIGKILL)
            assert reap(entered) == -signal.SIGKILL
        finally:
            cgroup.rmdir()
    os.close(null)


def test_a_session_that_is_gone_is_an_error(room: Room) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    mine = subprocess.Popen(["/bin/sleep", "60"], user=40002)
    try:
        for pid in (mine.pid, os.getpid(), 2**22 - 1):
            with pytest.raises(enter.EnterError, match="no session"):
                target = enter.Target(pid, 40002, 40002)
                room.start(["true"], (null, null, null), target=target)
    finally:
        mine.kill()
        mine.wait()
        os.close(null)


def test_a_dead_usher_is_replaced(room: Room) -> None:
    with enter.Door() as door:
        through = dataclasses.replace(room, door=door)
        assert through.run(["true"]).status == 0
        door._process.kill()
        door._process.wait()
        assert through.run(["false"]).status == 1


def test_many_threads_enter_at_once(room: Room) -> None:
    with enter.Door() as door, ThreadPoolExecutor(8) as pool:
        through = dataclasses.replace(room, door=door)
        answers = pool.map(lambda n: through.run(["sh", "-c", f"echo {n}; exit {n}"]), range(40))
        assert [(a.status, a.output) for a in answers] == [(n, f"{n}\n") for n in range(40)]


def test_ushers_leave_with_their_door(room: Room) -> None:
    before = own()
    with enter.Door() as door:
        assert dataclasses.replace(room, door=door).run(["true"]).status == 0
    assert own() == before


def test_print_what_entering_costs(way: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: the budget is checked by the benchmark."""
    null = os.open("/dev/null", os.O_RDWR)
    options = bwrap.arguments(way.settings, way.session)
    bare = ["bwrap", *options, "--", "/bin/true"]
    ours, theirs = [], []
    for _ in range(15):
        start = time.perf_counter()
        assert reap(way.start(["/bin/true"], (null, null, null))) == 0
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run(bare, check=True, user=way.session.uid, group=way.session.gid)
        theirs.append(time.perf_counter() - start)
    os.close(null)
    enter_ms, bare_ms = (statistics.median(times) * 1000 for times in (ours, theirs))
    with capsys.disabled():
        print(f"\nenter {enter_ms:.1f} ms, bare bwrap {bare_ms:.1f} ms: {enter_ms / bare_ms:.2f}")


def test_a_payload_that_is_stopped_half_way_does_not_stop_the_caller(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of the same UID may send SIGSTOP just before exec; a frozen session looks alike."""
    monkeypatch.setattr(usher, "_execute", lambda _: os.kill(os.getpid(), signal.SIGSTOP))
    null = os.open("/dev/null", os.O_RDWR)
    before = own()
    with pytest.raises(enter.EnterError, match="in time") as caught:
        room.start(["true"], (null, null, null), timeout=1)
    assert caught.value.code == TIMEOUT
    assert own() == before
    os.close(null)
