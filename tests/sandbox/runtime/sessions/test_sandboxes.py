"""The sandboxes that a session may be made with: what works in them, and what they reach."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from tests.support.attached_folders import OWNER, sh
from tests.support.fake_vm import Vm
from tests.support.waiting import wait_for

KINDS = {"stream": 1, "datagram": 2, "seqpacket": 5}
EVERY_SOCKET = """\
import json, os, socket
done = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    a.send(b"x")
    assert b.recv(1) == b"x"
    for address in (f"{os.environ['HOME']}/tmp/s{kind}", f"/tmp/s{kind}", f"\\0s{kind}"):
        server, client = (socket.socket(socket.AF_UNIX, kind) for _ in range(2))
        server.bind(address)
        if kind != socket.SOCK_DGRAM:
            server.listen()
        client.connect(address)
        client.send(b"x")
        done.append(address.replace("\\0", "@"))
print(len(done))
"""
REACH = """\
import json, os, socket, sys
found = {}
for name, address, kind in json.loads(sys.argv[1]):
    ways = {"": address}
    if address[0] == "/":
        try:
            fd = os.open(address, os.O_PATH)
            ways[" by its descriptor"] = f"/proc/self/fd/{fd}"
        except OSError:
            pass
    for way, spelt in ways.items():
        try:
            socket.socket(socket.AF_UNIX, kind).connect(spelt)
            found[name + way] = 0
        except OSError as error:
            found[name + way] = error.errno
print(json.dumps(found))
"""


@pytest.fixture
def open_one(vm: Vm) -> Iterator[str]:
    """A session whose programs have Unix sockets."""
    made: str = vm.call("create", sandbox="sockets")["name"]
    yield made
    vm.call("remove", name=made)


@contextmanager
def listening(address: str, kind: int) -> Iterator[None]:
    """A service of the VM's at which anybody may knock."""
    with socket.socket(socket.AF_UNIX, kind) as service:
        service.bind(address)
        if not address.startswith("\0"):
            Path(address).chmod(0o777)
        if kind != socket.SOCK_DGRAM:
            service.listen()
        yield
        if not address.startswith("\0"):
            Path(address).unlink()


def reached(vm: Vm, session: str, targets: Sequence[tuple[str, str, int]]) -> dict[str, int]:
    """What a payload gets that connects to each: 0 if it does, or the errno."""
    done = vm.client().exec(session, ["/usr/bin/python3", "-c", REACH, json.dumps(targets)])
    assert done.status == 0, done
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_session_has_the_sockets_that_it_makes(vm: Vm, open_one: str) -> None:
    done = vm.client().exec(open_one, ["/usr/bin/python3", "-c", EVERY_SOCKET])
    assert (done.stdout, done.stderr) == (b"9\n", b"")


def test_without_that_choice_it_has_none(vm: Vm, name: str) -> None:
    done = vm.client().exec(name, ["/usr/bin/python3", "-c", EVERY_SOCKET])
    assert b"Operation not permitted" in done.stderr


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_service_of_the_vm_is_reached(
    vm: Vm, open_one: str, name: str, share: Path, kind: int
) -> None:
    """By a path, by one in an attached directory, by a descriptor of it, by an abstract name."""
    vm.call("attach", name=open_one, role="outputs", path=str(share))
    other = vm.paths.home(name) / "service"
    abstract = f"\0{vm.root}"
    with (
        listening(f"{share}/service", kind),
        listening(f"{vm.root}/service", kind),
        listening(abstract, kind),
        listening(str(other), kind),
    ):
        os.chown(share / "service", OWNER, OWNER)
        home = vm.paths.home(open_one)
        found = reached(
            vm,
            open_one,
            [
                ("attached", f"{home}/mnt/outputs/service", kind),
                ("the VM's", f"{vm.root}/service", kind),
                ("abstract", abstract, kind),
                ("another session's", str(other), kind),
            ],
        )
    assert found == {
        "attached": errno.ECONNREFUSED,
        "attached by its descriptor": errno.ECONNREFUSED,
        "the VM's": errno.ENOENT,
        "abstract": errno.ECONNREFUSED,
        "another session's": errno.ENOENT,
    }


def test_by_a_mount_of_the_directory_it_would_be(vm: Vm, open_one: str, share: Path) -> None:
    vm.stop()
    vm.start(
        weaken="from serai.runtime.sessions.steps import folders\n"
        "folders._kind = lambda *_: 'idmap'"
    )
    try:
        vm.call("attach", name=open_one, role="outputs", path=str(share))
        with listening(f"{share}/s", socket.SOCK_STREAM):
            os.chown(share / "s", OWNER, OWNER)
            place = f"{vm.paths.home(open_one)}/mnt/outputs/s"
            found = reached(vm, open_one, [("attached", place, socket.SOCK_STREAM)])
        assert found["attached"] == 0
    finally:
        vm.stop()
        vm.start()


def test_a_mount_of_the_directory_itself_is_refused(vm: Vm, open_one: str, share: Path) -> None:
    with pytest.raises(SeraiError, match="no mounts of the kind idmap"):
        vm.call("attach", name=open_one, role="outputs", path=str(share), kind="idmap")


GATES = [(each, f"/run/serai/gate/{each}.sock", socket.SOCK_STREAM) for each in ("http", "socks")]


def test_payloads_speak_to_the_gate_by_the_bridge_alone(vm: Vm, open_one: str) -> None:
    refused = {"http": errno.EACCES, "socks": errno.EACCES}
    assert reached(vm, open_one, GATES) == refused
    port = "import socket; socket.create_connection(('127.0.0.1', 3128))"
    assert sh(vm, open_one, f'exec python3 -c "{port}"').status == 0


def test_with_a_folder_of_the_sessions_group_they_would(vm: Vm, open_one: str) -> None:
    folder = vm.paths.gate(open_one)
    group = folder.stat().st_gid
    uid = vm.call("show", name=open_one)["uid"]
    os.chown(folder, -1, uid)
    folder.chmod(0o2710)
    modes = {path: path.stat() for path in folder.iterdir()}
    for path in modes:
        os.chown(path, -1, uid)
    try:
        assert set(reached(vm, open_one, GATES).values()) == {0}
    finally:
        os.chown(folder, -1, group)
        folder.chmod(0o2710)
        for path, stat in modes.items():
            os.chown(path, -1, stat.st_gid)


def test_the_choice_stays_and_is_shown(vm: Vm, open_one: str, name: str) -> None:
    assert vm.call("show", name=open_one)["sandbox"] == "sockets"
    assert vm.call("show", name=name)["sandbox"] == "strict"
    vm.call("set", name=open_one, labels={"a": "b"})
    vm.call("stop", name=open_one)
    vm.call("reopen", name=open_one)
    assert vm.call("show", name=open_one)["sandbox"] == "sockets"
    assert vm.client().exec(open_one, ["/usr/bin/python3", "-c", EVERY_SOCKET]).status == 0


def test_one_that_the_settings_do_not_have_is_refused(vm: Vm) -> None:
    with pytest.raises(SeraiError, match="no sandbox 'open'; this VM's"):
        vm.call("create", sandbox="open")


TWICE = """\
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        socket.socket(socket.AF_UNIX, kind)
    except PermissionError:
        pass
raise SystemExit(3)
"""
PYTHON = os.path.realpath("/usr/bin/python3")
TOLD = {"what": "Unix sockets", "times": 2, "programs": [PYTHON.rpartition("/")[2]]}


def test_what_was_refused_is_told_with_the_commands_end(vm: Vm, name: str) -> None:
    done = vm.client().exec(name, ["/usr/bin/python3", "-c", TWICE])
    assert (done.status, done.refused) == (3, [TOLD])
    assert vm.client().exec(name, ["true"]).refused == []
    assert vm.call("show", name=name)["refused"] == [TOLD]
    vm.call("stop", name=name)
    vm.call("reopen", name=name)
    assert vm.call("show", name=name)["refused"] == []


def test_a_person_is_told_what_helps_if_the_command_failed(vm: Vm, name: str) -> None:
    script = ["exec", name, "--", "/usr/bin/python3", "-c"]
    said = at_terminal(vm, *script, TWICE)
    assert "refused: Unix sockets (2 times, python3" in said
    assert "'serai create --sandbox sockets' makes a session that has them" in said
    # Most programs look for nscd's socket, and do without it.
    assert "refused" not in at_terminal(vm, *script, TWICE.replace("SystemExit(3)", "SystemExit"))
    assert "refused: Unix sockets (4 times, python3" in vm.serai("show", name).stdout


def at_terminal(vm: Vm, *words: str) -> str:
    """What a command of ``serai`` writes to a terminal's standard error."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123  # a descriptor
        argv, null = vm.command(*words), subprocess.DEVNULL
        subprocess.run(argv, check=False, env=vm.env, stdin=null, stdout=null, stderr=theirs)
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO: that was all
            while piece := terminal.read(4096):
                said += piece
    return said.decode()


def test_a_job_tells_with_its_end_what_was_refused(vm: Vm, name: str) -> None:
    job = vm.call("job.start", name=name, argv=["/usr/bin/python3", "-c", TWICE])["job"]
    ended = vm.call("job.wait", job=job)
    assert (ended["status"], ended["refused"]) == (3, [TOLD])


FOR_EVER = """\
import os, socket
for _ in range(4):
    os.fork()
while True:
    try:
        socket.socket(socket.AF_UNIX)
    except PermissionError:
        pass
"""


def test_who_is_refused_for_ever_keeps_the_daemon_from_nobody(vm: Vm, name: str) -> None:
    argv = ["/usr/bin/python3", "-c", FOR_EVER]
    for _ in range(10):
        vm.call("exec", name=name, argv=argv, detach=True, stdio="null")
    pid = vm.daemon.pid if vm.daemon else 0

    def times() -> int:
        return sum(each["times"] for each in vm.call("show", name=name)["refused"])

    wait_for(times)
    before, began, first = cpu_seconds(pid), time.monotonic(), times()
    wait_for(lambda: times() > first + 500)
    # A twentieth of the time is for the answers, and some for the questions of this test.
    assert cpu_seconds(pid) - before < 0.5 * (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
