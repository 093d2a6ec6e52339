"""Callers that say anything at all, and sessions whose files have any name and kind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from serai.runtime.client import Client
from serai.runtime.sandbox import cgroups
from tests.support.fake_vm import DEADLINE, Vm
from tests.support.fuzzing import Record, Watched, changed, fuzz, json_value
from tests.support.waiting import wait_for

WORKERS = 3
THREADS = 8  # what looks at the disk, removes homes and waits has threads, once it has to


def attack(
    vm: Vm, case: Callable[[random.Random], object], record: Record, workers: int = 1
) -> None:
    """Try cases against sessiond and the gate; afterwards ``one`` runs as before, and only it."""
    assert vm.daemon is not None and vm.gate is not None
    idle = len(cgroups.members(vm.cgroup / "one"))

    def alone() -> bool:
        for name in vm.sessions().keys() - {"one"}:  # some are only just being made
            with contextlib.suppress(SeraiError):
                vm.call("remove", name=name)
        return set(vm.sessions()) == {"one"} and vm.processes() == idle

    def settle() -> None:
        wait_for(alone, DEADLINE)
        assert vm.sessions()["one"]["state"] == "ready"

    sessiond = Watched(vm.daemon.pid, vm.root / "sessiond.log", THREADS, descriptors=2)
    gate = Watched(vm.gate.pid, vm.root / "gate.log", THREADS, descriptors=2)
    fuzz(case, sessiond, gate, record=record, workers=workers, settle=settle)


# --- the control socket

STEADY = (
    "show",
    "exec",
    "put",
    "get",
    "ls",
    "hints",
    "list",
    "policy",
    "subscribe",
    "forward.open",
)
"""What may be asked about ``one``, which has to be there afterwards."""

ANY = (*STEADY, "create", "switch", "stop", "archive", "reopen", "remove", "attach", "detach")
KEYS = (
    *("name", "labels", "request_id", "keep_running", "argv", "env", "cwd", "timeout", "tty"),
    *("detach", "stdio", "rows", "columns", "role", "path", "writable", "host_path", "kind"),
    *("exec", "signal", "data", "eof", "format", "profile", "port", "unknown"),
)
VICTIMS = ("two", "three")


def asked(dice: random.Random) -> bytes:
    """A request, mostly one that could be meant."""
    name = dice.choice(("one", "one", *VICTIMS, "nonesuch"))
    method = dice.choice(STEADY if name == "one" else ANY)
    params: Any = {"name": name} if method not in ("list", "subscribe") else {}
    if method == "exec":
        argv = dice.choice((["true"], ["cat"], ["sh", "-c", "echo x; echo y >&2"], ["/nonesuch"]))
        params |= {"argv": argv, "stdio": dice.choice(("stream", "null", "fds")), "timeout": 5}
        params |= {"tty": dice.random() < 0.2}
    elif method in ("put", "get", "ls"):
        params |= {"role": dice.choice(("home", "tmp", "outputs")), "path": "file"}
    elif method == "forward.open":
        params |= {"port": dice.choice((3128, 3000, 0))}
    elif method == "attach":
        params |= {"role": "outputs", "path": dice.choice(("/nonesuch", "/", "/proc"))}
    elif method == "detach":
        params |= {"role": "outputs"}
    for _ in range(dice.choice((0, 0, 0, 1, 2))):
        params[dice.choice(KEYS)] = json_value(dice)
    number = dice.choice((1, 2, 3, "x", None, json_value(dice)))
    message: Any = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    if dice.random() < 0.1:
        message[dice.choice(("id", "jsonrpc", "params", "more"))] = json_value(dice)
    if dice.random() < 0.2:  # about a payload of this connection, if it has one
        call = dice.choice(("exec.signal", "exec.input", "exec.resize", "forward.connect"))
        about = {"exec": dice.choice(("1-1", "", json_value(dice))), "signal": "KILL"}
        if call == "forward.connect":
            about = {"forward": dice.choice(("1-1", json_value(dice))), "stream": json_value(dice)}
        message = {"jsonrpc": "2.0", "id": 9, "method": call, "params": about}
    return json.dumps(message).encode() + b"\n"


def harmless(line: bytes) -> bool:
    """Whether a changed line does not end ``one``, by chance: that it may."""
    with contextlib.suppress(ValueError, LookupError, AttributeError, TypeError, RecursionError):
        said = json.loads(line)
        return said["method"] in STEADY or said["params"].get("name") != "one"
    return True


@contextlib.contextmanager
def descriptors(dice: random.Random, vm: Vm) -> Iterator[list[int]]:
    """What comes along with a message: pipes, files, sockets, the control socket itself."""
    made: list[int] = []
    with contextlib.ExitStack() as stack:
        for _ in range(dice.choice((0, 0, 1, 3, 3, 4, 8))):
            kind = dice.randrange(6)
            if kind == 0:
                made += os.pipe()
            elif kind == 1:
                made.append(os.open("/dev/null", os.O_RDWR))
            elif kind == 2:
                made.append(os.open(vm.root / "etc/passwd", dice.choice((os.O_RDONLY, os.O_PATH))))
            elif kind == 3:
                made += [each.detach() for each in socket.socketpair()]
            elif kind == 4:
                made.append(os.memfd_create("x"))
            else:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(str(vm.paths.control))
                made.append(os.dup(sock.fileno()))
        try:
            yield made
        finally:
            for each in made:
                os.close(each)


def test_fuzz_control(vm: Vm, one: None, record_property: Record) -> None:
    """Messages and descriptors of any kind at the control socket."""
    for each in VICTIMS:
        vm.call("create", name=each)

    def case(dice: random.Random) -> None:
        lines = [asked(dice) for _ in range(dice.choice((1, 1, 2, 5)))]
        if dice.random() < 0.5:
            lines = [changed(dice, each, [asked(dice)]) for each in lines]
        data = b"".join(lines)
        if not all(map(harmless, data.split(b"\n"))):
            return
        with socket.socket(socket.AF_UNIX) as sock, descriptors(dice, vm) as given:
            sock.settimeout(dice.choice((0.02, 0.2)))
            sock.connect(str(vm.paths.control))
            with contextlib.suppress(OSError):
                sent = socket.send_fds(sock, [data[:100000]], given[:200])
                sock.sendall(data[sent:])
                if dice.random() < 0.3:
                    sock.shutdown(dice.choice((socket.SHUT_WR, socket.SHUT_RD)))
                received = b""
                while dice.random() < 0.9 and (more := sock.recv(65536)):
                    received += more
                for line in received.splitlines():
                    if line.endswith(b"}"):
                        code = json.loads(line).get("error", {}).get("code")
                        assert code != errors.INTERNAL, (data, line)
        if dice.random() < 0.05:
            for each in VICTIMS:
                with contextlib.suppress(SeraiError):
                    vm.call("create", name=each)

    attack(vm, case, record_property, WORKERS)


# --- files

# Runs in the session: it makes, moves and removes what has odd names and kinds, and never ends.
INSIDE = """
import os, random, sys
dice = random.Random(sys.argv[1])
os.makedirs("tmp/deep", exist_ok=True)
os.chdir("tmp")
names = [os.fsencode(each) for each in sys.argv[2:]]
targets = [b"/", b"..", b"../../..", b"/etc/passwd"]
open("at-work", "w").close()
while True:
    name, other = dice.choice(names), dice.choice(names)
    where = os.path.join(dice.choice((b".", b"deep")), name)
    try:
        kind = dice.randrange(9)
        if kind == 0: os.symlink(dice.choice(targets + [other]), where)
        elif kind == 1: os.mkfifo(where)
        elif kind == 2: os.mkdir(where)
        elif kind == 3: os.link(other, where)
        elif kind == 4: os.rename(os.path.join(b".", other), where)
        elif kind == 5: os.rmdir(where)
        elif kind == 6: os.unlink(where)
        elif kind == 7: os.truncate(where, dice.choice((0, 5, 1 << 40)))
        else:
            with open(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK), "wb") as file:
                file.write(b"mine")
    except OSError:
        pass
"""
NAMES = (
    *("a", "b", "secret", "-rf", "*", "a b", "\n", "\x1b[2J", "\udcff\udc80", "x" * 255, "\u202e"),
    *("'", '"', "\\", "%n", "{}", ".serai-put-0", "..."),
)
PARTS = (*NAMES, "..", ".", "", "deep", "/", "proc", "self", "\0", "y" * 300, "\ud800", "file")
LARGEST = 1 << 20


def a_path(dice: random.Random) -> str:
    if dice.random() < 0.5:
        return dice.choice(NAMES)
    return "/".join(dice.choice(PARTS) for _ in range(dice.choice((1, 2, 3, 3000))))


@pytest.fixture
def at_work(vm: Vm, one: None) -> Iterator[None]:
    """The session is busy with its files, until all of that is gone."""
    argv = ["/usr/bin/python3", "-c", INSIDE, os.environ.get("SERAI_FUZZ_SEED", "1"), *NAMES]
    with vm.client() as client:
        client._socket.sendall(
            json.dumps(
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "exec",
                    "params": {"name": "one", "argv": argv, "stdio": "null"},
                }
            ).encode()
            + b"\n"
        )
        home = vm.root / "sessions/one"
        wait_for((home / "tmp/at-work").exists, DEADLINE)
        yield
    wait_for(lambda: not vm.payloads("one"), DEADLINE)
    for left in os.listdir(os.fsencode(home / "tmp")):
        path = os.path.join(os.fsencode(home / "tmp"), left)  # noqa: PTH118 - bytes
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)  # noqa: PTH112, PTH114, PTH108


def test_fuzz_files(vm: Vm, at_work: None, record_property: Record) -> None:
    """Any paths of put, get and ls, in a session that changes its files meanwhile."""
    victim = vm.root / "sessions" / "secret"
    victim.write_text("the VM's")
    victim.chmod(0o666)
    around = {path: path.read_bytes() for path in (victim, vm.root / "etc/passwd")}

    def case(dice: random.Random) -> None:
        role, path = dice.choice(("tmp", "tmp", "home", "outputs")), a_path(dice)
        method = dice.choice((_get, _put, _ls))
        with vm.client() as client:
            try:
                method(client, role, path, dice)
            except SeraiError as error:
                assert error.code != errors.INTERNAL, (role, path, error)
                assert str(error).isprintable(), (role, path, error)
        assert {path: path.read_bytes() for path in around} == around

    try:
        attack(vm, case, record_property, WORKERS)
    finally:
        victim.unlink()
    # os.walk lets a folder vanish meanwhile: the session is at work.
    left = {name for _, _, names in os.walk(vm.root / "sessions/one") for name in names}
    assert [name for name in left if name.startswith(".serai-put-") and name not in NAMES] == []


def _get(client: Client, role: str, path: str, dice: random.Random) -> None:
    data = client.get("one", role, path, limit=LARGEST)
    for secret in (b"the VM's", b"root:"):
        assert secret not in data, (role, path)


def _put(client: Client, role: str, path: str, dice: random.Random) -> None:
    client.put("one", role, path, b"put" * dice.choice((0, 1, 50000)))


def _ls(client: Client, role: str, path: str, dice: random.Random) -> None:
    for entry in client.ls("one", role, path):
        assert "/" not in entry["name"]
        assert entry["name"] not in ("", ".", "..")
