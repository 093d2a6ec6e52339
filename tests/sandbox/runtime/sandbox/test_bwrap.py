"""What a payload sees of the VM and of other sessions, and what it would see without each wall."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from errno import ECONNREFUSED, ENETUNREACH
from pathlib import Path

import pytest

from serai.common import bridge, linux
from serai.runtime.sandbox import bwrap
from tests.support.sandbox import (
    Room,
    build_filters,
    make_session,
    make_top,
    open_room,
    possible_settings,
)

UID, OTHER_UID = 40003, 40004


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """Two sessions' files. The other's are open to everybody: only the sandbox keeps them away."""
    with make_top() as folder:
        make_session(folder, "blue", UID)
        other = make_session(folder, "other", OTHER_UID)
        other.home.chmod(0o777)
        (other.home / "secret").write_text("the other's")
        (other.home / "secret").chmod(0o666)
        yield folder


def session_of(top: Path, name: str, uid: int) -> bwrap.Session:
    places = (top / part / name for part in ("sessions", "state", "gate", "certificates"))
    return bwrap.Session(name, uid, uid, *places)


@pytest.fixture(scope="module")
def room(top: Path) -> Iterator[Room]:
    with open_room(session_of(top, "blue", UID)) as opened:
        yield opened


def weakened(room: Room, without: Sequence[str] = (), extra: Sequence[str] = ()) -> list[str]:
    """The sandbox's options, one wall taken out."""
    options = bwrap.arguments(room.settings, room.session)
    for option in without:
        options.remove(option)
    return [*options, *extra]


REACH = """\
import json, os, sys
home, secret = sys.argv[1:]
name = os.path.basename(secret)
ways = {
    "path": secret,
    "dots": f"{home}/../other/{name}",
    "dots above": f"{home}/../../../../../../../..{secret}",
}
os.symlink(secret, f"{home}/link")
ways["symlink"] = f"{home}/link"
try:
    os.link(secret, f"{home}/hard")
    ways["hard link"] = f"{home}/hard"
except OSError:
    pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for way in ("root", "cwd", *(f"fd/{number}" for number in range(20))):
        ways[f"{way} of {pid}"] = f"/proc/{pid}/{way}{secret}"
        ways[f"{way} of {pid}, dots"] = f"/proc/{pid}/{way}/../other/{name}"
reached = []
for way, path in ways.items():
    try:
        with open(path) as file:
            reached.append(way) if "the other's" in file.read() else None
    except OSError:
        pass
for number in range(256):
    for path in (secret[1:], f"../other/{name}"):
        try:
            os.close(os.open(path, os.O_RDONLY, dir_fd=number))
            reached.append(f"fd {number}") if number > 2 or path == secret[1:] else None
        except OSError:
            pass
os.unlink(f"{home}/link")
print(json.dumps(reached))
"""


def reached(room: Room) -> list[str]:
    secret = room.session.home.parent / "other/secret"
    argv = ["/usr/bin/python3", "-c", REACH, str(room.session.home), str(secret)]
    result = room.run(argv, cwd="/")
    assert result.status == 0, result
    ways: list[str] = json.loads(result.output)
    return ways


def test_one_home_is_all_there_is_of_the_sessions(room: Room) -> None:
    assert room.run(["ls", "-A", str(room.session.home.parent)]).output.split() == ["blue"]
    assert reached(room) == []


def test_without_the_empty_folder_above_the_home_all_of_it_is_reached(room: Room) -> None:
    sessions = str(room.session.home.parent)
    options = weakened(room, extra=("--bind", sessions, sessions))
    with open_room(room.session, options=options) as weak:
        names = weak.run(["ls", "-A", sessions]).output.split()
        assert names == ["blue", "other"]
        assert {"path", "dots", "dots above", "symlink"} <= set(reached(weak))


def test_the_other_session_s_processes_are_not_there(top: Path, room: Room) -> None:
    with open_room(session_of(top, "other", OTHER_UID)) as other:
        assert other.run(["true"]).status == 0
        tree = room.run(["ps", "-A", "-o", "pid=,ppid=,comm="]).output
        rows = [line.split() for line in tree.splitlines()]
        assert rows[:3] == [["1", "0", "bash"], ["2", "1", "socat"], ["3", "1", "socat"]]
        assert [row[1:] for row in rows[3:]] == [["0", "ps"]]


CONNECT = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
    print(0)
except OSError as error:
    print(error.errno)
"""


def connect(room: Room, host: str, port: int) -> int:
    return int(room.run(["/usr/bin/python3", "-c", CONNECT, host, str(port)]).output)


def test_no_network_but_the_bridge(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert connect(room, "192.0.2.1", 80) == ENETUNREACH
        assert connect(room, "2001:db8::1", 80) == ENETUNREACH
        assert connect(room, "169.254.169.254", 80) == ENETUNREACH
        assert connect(room, "127.0.0.1", port) == ECONNREFUSED
        assert connect(room, "127.0.0.1", bridge.HTTP_PORT) == 0
        with open_room(room.session, options=weakened(room, ["--unshare-net"])) as weak:
            assert connect(weak, "127.0.0.1", port) == 0


ABSTRACT = """\
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1])
    print(0)
except OSError as error:
    print(error.errno)
"""


def test_abstract_sockets_of_the_vm_do_not_exist(room: Room) -> None:
    """With the bridge's filter, which allows Unix sockets: the network namespace is the wall."""
    name = f"serai-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        argv = ["/usr/bin/python3", "-c", ABSTRACT, name]
        only_baseline = build_filters()[:1]
        assert room.run(argv, filters=only_baseline).output == f"{ECONNREFUSED}\n"
        with open_room(room.session, options=weakened(room, ["--unshare-net"])) as weak:
            assert weak.run(argv, filters=only_baseline).output == "0\n"


def test_shared_memory_of_the_vm_does_not_exist(room: Room) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5E7A0000 + os.getpid() % 0xFFFF
    segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
    assert segment >= 0
    code = f"import ctypes; print(ctypes.CDLL(None).shmget({key}, 0, 0o666))"
    try:
        assert room.python(code).output == "-1\n"
        with open_room(room.session, options=weakened(room, ["--unshare-ipc"])) as weak:
            assert weak.python(code).output == f"{segment}\n"
    finally:
        libc.shmctl(segment, 0, None)  # IPC_RMID


def test_the_vm_is_read_only_and_its_private_folders_are_empty(room: Room) -> None:
    home = str(room.session.home)
    for folder in (
        "/",
        "/etc",
        "/usr",
        "/usr/local/bin",
        "/dev",
        "/var",
        "/run/serai/gate",
        "/run/serai/certificates",
        "/sys",
    ):
        result = room.run(["touch", f"{folder}/made-inside"])
        assert result.status == 1, folder
        assert not Path(f"{folder}/made-inside").exists()
    for folder in ("/tmp", "/var/tmp", "/home", "/root", "/dev/shm"):
        assert room.run(["ls", "-A", folder]).output == "", folder
        assert room.run(["touch", f"{folder}/a"]).status == 0, folder
        assert room.run(["rm", f"{folder}/a"]).status == 0
        assert not Path(f"{folder}/a").exists()
    assert room.run(["ls", "-A", "/run"]).output.split() == ["serai"]
    own = room.run(["ls", "-A", "/run/serai"]).output.split()
    assert own == ["certificates", "gate", "hints", "users"]
    top = room.run(["ls", "-A", "/"]).output.split()
    assert set(top) <= set(
        f"bin dev etc home lib lib64 opt proc root run sbin srv sys tmp usr var"
        f" {home.split('/')[1]}".split()
    )
    assert room.run(["touch", f"{home}/tmp/a"]).status == 0
    assert (room.session.home / "tmp/a").stat().st_uid == UID


def test_devices_are_the_harmless_ones(room: Room) -> None:
    code = (
        "import os, stat\n"
        "for top, _, names in os.walk('/dev'):\n"
        "    for name in names:\n"
        "        mode = os.lstat(f'{top}/{name}').st_mode\n"
        "        if not stat.S_ISLNK(mode): print(f'{top}/{name}')"
    )
    devices = {"null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"}
    assert set(room.python(code).output.split()) == {f"/dev/{name}" for name in devices}


def test_no_mount_or_file_tells_of_other_sessions(room: Room) -> None:
    """In the mount table, the kernel's own files, and the names of users."""
    for path in ("/proc/self/mountinfo", "/proc/self/cgroup", "/run/serai/users/passwd"):
        text = room.run(["cat", path]).output
        assert text
        assert "other" not in text, path
    assert room.run(["ls", "/sys"]).output.split() == ["devices"]
    assert re.fullmatch(r"(\d+:[^:]*:/(\.\./?)*\n)+", room.run(["cat", "/proc/self/cgroup"]).output)
    for path in (
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
    ):
        assert room.run(["sh", "-c", f"echo 1 >{path}"]).status != 0, path
    masked = ("/proc/interrupts", "/proc/keys", "/proc/key-users")
    for path in ("/proc/kcore", "/proc/kmsg", "/etc/shadow", *masked):
        assert room.run(["head", "-c", "1", path]).status != 0, path
    assert room.run(["hostname"]).output == f"{room.settings.hostname}\n"
    assert room.run(["hostname", "mine"]).status != 0


LOOK = """\
import os
for pid in (1, 2, 3):
    for name, flags in (("mem", os.O_RDWR), ("environ", os.O_RDONLY), ("fd/1", os.O_RDONLY)):
        try:
            os.close(os.open(f"/proc/{pid}/{name}", flags))
            print(pid, name)
        except OSError:
            pass
"""


def test_a_payload_can_not_look_into_the_bridge(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its UID is the same, and whoever writes to its memory has got rid of a filter."""
    assert room.python(LOOK).output == ""
    monkeypatch.setattr(linux, "confine_tracing", lambda: None)
    weak = room.python(LOOK).output.splitlines()
    if Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        pytest.skip("Yama protects it, too")
    assert {f"{pid} mem" for pid in (1, 2, 3)} <= set(weak)


def test_no_socket_of_the_vm_lies_in_what_is_visible(room: Room) -> None:
    code = (
        "import os, stat\n"
        "for top, folders, names in os.walk('/', onerror=None):\n"
        "    folders[:] = [] if top.startswith('/proc') else folders\n"
        "    for name in names:\n"
        "        try:\n"
        "            mode = os.lstat(os.path.join(top, name)).st_mode\n"
        "        except OSError:\n"
        "            continue\n"
        "        if stat.S_ISSOCK(mode): print(os.path.join(top, name))"
    )
    assert room.python(code).output == ""


def test_killing_the_outer_process_ends_everything() -> None:
    with make_top() as own:
        session = make_session(own, "brief", 40005)
        with open_room(session, possible_settings()) as brief:
            null = os.open("/dev/null", os.O_RDWR)
            entered = brief.start(["sleep", "1000"], (null, null, null))
            os.close(null)
        # Leaving the room has killed bubblewrap; PID 1 takes the PID namespace with it.
        result = os.waitid(os.P_PIDFD, entered.pidfd, os.WEXITED)
        assert result is not None
        assert result.si_status == 9
        os.close(entered.pidfd)


def test_it_is_an_option_of_bubblewraps_that_ends_it() -> None:
    with make_top() as own:
        session = make_session(own, "brief", 40005)
        options = bwrap.arguments(possible_settings(), session)
        options.remove("--die-with-parent")
        with open_room(session, options=options) as weak:
            init = os.pidfd_open(weak.target.pid)
        ended, _, _ = select.select([init], [], [], 0)
        assert not ended
        signal.pidfd_send_signal(init, signal.SIGKILL)
        os.waitpid(weak.target.pid, 0)
        os.close(init)
