"""What a caller's odd descriptors do: closed ones, files, sockets, the control socket itself."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import TOO_LARGE, SeraiError
from serai.common.jsonrpc import call
from serai.runtime.client import Client
from tests.support.fake_vm import CHECKOUT, DEADLINE, PYTHON, Vm, opened
from tests.support.waiting import listens, wait_for

pytestmark = pytest.mark.usefixtures("unharmed")

EVIL = call(1, "create", {"name": "pwned"}).decode()
"""What a payload would say to sessiond if it could."""

SAY = ["sh", "-c", 'printf "%s" "$0"; printf "%s" "$0" >&2; cat >/dev/null', EVIL]
COMMANDS = {
    "exec": ["exec", "one", "--", *SAY],
    "exec --tty": ["exec", "one", "--tty", "--", "sh", "-c", 'printf "%s" "$0"', EVIL],
    "exec --json": ["exec", "one", "--json", "--", *SAY],
    "exec --detach": ["exec", "one", "--detach", "--", *SAY],
    "exec --detach --json": ["exec", "one", "--detach", "--json", "--", *SAY],
    "exec --help": ["exec", "--help"],
    "shell": ["shell", "one"],
    "put": ["put", "one", "tmp", "put"],
    "get": ["get", "one", "tmp", "evil"],
    "ls": ["ls", "one", "tmp"],
    "ls --json": ["ls", "one", "tmp", "--json"],
    "list": ["list"],
    "list --json": ["list", "--json"],
    "show": ["show", "one"],
    "hints": ["hints", "one", "--format", "prompt"],
    "policy": ["policy", "show", "one"],
    "audit": ["audit"],
    "audit --json": ["audit", "--json"],
    "a mistake": ["show", "nonesuch"],
}
CLOSED = [each for n in range(4) for each in itertools.combinations((0, 1, 2), n)]


def start_with_closed(vm: Vm, closed: tuple[int, ...], *words: str) -> subprocess.Popen[bytes]:
    """The command, started without the descriptors in ``closed``."""
    shut = " ".join(f"{number}>&-" for number in closed)
    return subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {shut}', "sh", *vm.command(*words)],
        env=vm.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_with_closed(vm: Vm, closed: tuple[int, ...], *words: str) -> tuple[int, bytes]:
    """Its status and output."""
    process = start_with_closed(vm, closed, *words)
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output


@pytest.mark.parametrize("what", COMMANDS)
def test_closed_descriptors_give_nobody_the_control_socket(vm: Vm, what: str) -> None:
    with vm.client() as client:
        client.put("one", "tmp", "evil", EVIL.encode())
    expected, _ = run_with_closed(vm, (), *COMMANDS[what])
    for closed in CLOSED:
        status, output = run_with_closed(vm, closed, *COMMANDS[what])
        assert status == expected, (closed, output)
        assert b"Traceback" not in output, (closed, output)
        assert set(vm.sessions()) == {"one"}, f"a payload asked sessiond: {closed}"


def test_without_that_a_payload_gets_the_control_socket(vm: Vm) -> None:
    """The command with that step taken out. It stays: who goes is not served any more."""
    script = (vm.root / "serai").read_text()
    weak = "stdio.above = lambda number: number"
    stays = "import atexit, time; atexit.register(time.sleep, 600)"
    (vm.root / "serai").write_text(script.replace("stdio.begin()", f"{weak}; {stays}"))
    process = start_with_closed(vm, (1,), *COMMANDS["exec"])
    try:
        wait_for(lambda: "pwned" in vm.sessions())
    finally:
        process.kill()
        process.communicate()
        (vm.root / "serai").write_text(script)
    vm.call("remove", name="pwned")
    wait_for(lambda: set(vm.sessions()) == {"one"})


READ_ALL = 'print(open("/proc/self/fd/1").read(), file=__import__("sys").stderr)'


def run(vm: Vm, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command, which writes to other things than pipes."""
    return subprocess.run(
        vm.command(*words),
        env=vm.env,
        check=False,
        timeout=DEADLINE,
        **{"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
    )


def test_a_payload_reads_nothing_of_the_file_it_writes_to(vm: Vm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("SECRET\n")
    log.chmod(0o644)
    with log.open("ab") as taken:
        done = run(vm, "exec", "one", "--", PYTHON, "-c", READ_ALL, stdout=taken)
        assert b"SECRET" not in done.stderr
        assert run(vm, "exec", "one", "--", "echo", "kept", stdout=taken).returncode == 0
    assert log.read_text() == "SECRET\nkept\n"


def test_without_the_check_a_payload_reads_all_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("SECRET\n")
    (tmp_path / "log").chmod(0o644)
    code = "from serai.runtime.sandbox import enter\nenter._check_stdio = lambda fd: None"
    read, write = os.pipe()
    with opened() as vm, (tmp_path / "log").open("ab") as log:
        vm.start(weaken=code)
        vm.call("create", name="weak")
        params = {"name": "weak", "argv": [PYTHON, "-c", READ_ALL], "stdio": "fds"}
        with vm.client() as client:
            client.wait(client.ask("exec", params, [read, log.fileno(), write]))
    assert b"SECRET" in os.read(read, 4096)
    os.close(read)
    os.close(write)


def test_no_file_to_write_to_and_no_socket_is_taken_by_fds(vm: Vm, tmp_path: Path) -> None:
    read, write = os.pipe()
    here, there = socket.socketpair()
    own = socket.socket(socket.AF_UNIX)
    own.connect(str(vm.paths.control))
    with vm.client() as client, (tmp_path / "w").open("wb") as file, here, there, own:
        bad = (here.fileno(), own.fileno(), file.fileno())
        for each, place in itertools.product(bad, range(3)):
            given = [read, write, write]
            given[place] = each
            params = {"name": "one", "argv": ["echo", EVIL], "stdio": "fds"}
            with pytest.raises(SeraiError, match="only a pipe"):
                client.wait(client.ask("exec", params, given))
        client.put("one", "tmp", "evil", EVIL.encode())
        for method in ("get", "put", "ls"):
            with pytest.raises(SeraiError, match="connection to sessiond"):
                client.send(method, own.fileno(), name="one", role="tmp", path="evil")
        # Any other socket is: sshd gives one as standard output.
        client.send("get", here.fileno(), name="one", role="tmp", path="evil")
        assert there.recv(4096) == EVIL.encode()
    os.close(read)
    os.close(write)
    assert set(vm.sessions()) == {"one"}


def test_a_detached_command_keeps_nobody_waiting_and_no_pipe_ends_it(vm: Vm) -> None:
    vm.call("create", name="far")
    idle = vm.processes()
    script = "sleep 1; echo more; echo more >&2; echo >tmp/done; sleep 999"
    # It returns when nobody holds the pipes any more.
    done = vm.serai("exec", "far", "--detach", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with vm.client() as client:
        wait_for(lambda: "done" in [each["name"] for each in client.ls("far", "tmp")])
    assert vm.processes() > idle
    vm.call("remove", name="far")
    wait_for(lambda: "far" not in vm.sessions())


def test_a_detached_command_says_that_a_file_gets_nothing(vm: Vm, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        done = run(vm, "exec", "one", "--detach", "--", "echo", "x", stdout=log)
    assert done.returncode == 0
    assert b"not kept" in done.stderr
    assert (tmp_path / "log").read_bytes() == b""


# The main thread does not take the signal, as if it came just before the system call that waits.
LATE = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from serai.runtime.cli import exec
threading.Thread(target=time.sleep, args=(999,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
os._exit(exec.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["pipes", "a socket", "a terminal"])
def test_a_signal_is_never_lost(vm: Vm, way: str, number: signal.Signals) -> None:
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    options = ["--tty"] if way == "a terminal" else []
    late = [sys.executable, "-c", LATE, str(CHECKOUT / "src")]
    name = number.name.removeprefix("SIG")
    script = f"trap 'exit 9' {name}; echo ready; while :; do sleep 0.01; done"
    with ours, theirs:
        process = subprocess.Popen(
            [*late, "one", *options, "--", "sh", "-c", script],
            env=vm.env,
            stdin=subprocess.DEVNULL,
            stdout=theirs.fileno() if way == "a socket" else write,
        )
        try:
            seen = ours.recv(100) if way == "a socket" else os.read(read, 100)
            assert seen.strip() == b"ready"
            time.sleep(0.5)  # until it surely waits
            process.send_signal(number)
            assert process.wait(DEADLINE) == 9
        finally:
            process.kill()
            process.wait()
            os.close(read)
            os.close(write)


def test_a_payload_that_reads_slowly_keeps_no_output_back(vm: Vm) -> None:
    """It writes much more than it reads, both ways through one socket, as of sshd."""
    script = "while head -c 4096 | grep -q .; do head -c 300000 /dev/zero; done"
    ours, theirs = socket.socketpair()

    def feed() -> None:
        ours.sendall(b"x" * 200_000)
        ours.shutdown(socket.SHUT_WR)

    with ours:
        with theirs:
            process = subprocess.Popen(
                vm.command("exec", "one", "--", "sh", "-c", script),
                env=vm.env,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
            )
        ours.settimeout(DEADLINE)
        sender = threading.Thread(target=feed, daemon=True)
        sender.start()
        received = 0
        try:
            while data := ours.recv(1 << 20):
                received += len(data)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait()
        sender.join(DEADLINE)
    assert received > 300_000
    assert received % 300_000 == 0


def test_output_that_does_not_fit_is_no_success(vm: Vm, tmp_path: Path) -> None:
    argv = vm.command("exec", "one", "--", "head", "-c", "100000", "/dev/zero")
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            ["/bin/sh", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "sh", *argv],
            env=vm.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
            timeout=DEADLINE,
        )
    assert done.returncode != 0
    assert (tmp_path / "out").stat().st_size < 100_000


def test_a_program_that_collects_output_has_a_limit(vm: Vm) -> None:
    with vm.client() as client:
        for script in ("cat /dev/zero", "cat /dev/zero >&2"):
            with pytest.raises(SeraiError, match="more than 100000 bytes") as caught:
                client.exec("one", ["sh", "-c", script], limit=100_000)
            assert caught.value.code == TOO_LARGE
        exact = client.exec("one", ["head", "-c", "100000", "/dev/zero"], limit=100_000)
        assert len(exact.stdout) == 100_000
        client.put("one", "tmp", "big", b"x" * 300_000)
        with pytest.raises(SeraiError, match="more than 100000 bytes"):
            client.get("one", "tmp", "big", limit=100_000)
        assert client.get("one", "tmp", "big") == b"x" * 300_000


def test_the_command_collects_no_more_than_its_limit(vm: Vm) -> None:
    done = vm.serai("exec", "one", "--json", "--", "cat", "/dev/zero")
    assert done.returncode == 125
    assert "more than 67108864 bytes" in done.stderr


@pytest.mark.parametrize(("rows", "columns"), [(-1, 80), (24, -1), (70000, 80), (24, 10000)])
def test_a_terminal_of_an_impossible_size_is_refused(vm: Vm, rows: int, columns: int) -> None:
    with vm.client() as client:
        with pytest.raises(SeraiError, match=r"0\.\.9999"):
            client.exec("one", ["true"], tty=True, rows=rows, columns=columns)
        with pytest.raises(SeraiError, match=r"0\.\.9999"):
            client.call("exec.resize", exec="any", rows=rows, columns=columns)


def test_a_forwarded_socket_is_named_where_descriptors_are_missing(vm: Vm, tmp_path: Path) -> None:
    """As ssh -L forwards it: the bytes pass, and nothing else."""
    here = tmp_path / "forwarded.sock"
    ways = (f"UNIX-LISTEN:{here},fork", f"UNIX-CONNECT:{vm.paths.control}")
    forward = subprocess.Popen(["/usr/bin/socat", *ways], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(here))
        env = {**vm.env, "SERAI_CONTROL": str(here)}
        for line in (["exec", "one", "--", "true"], ["put", "one", "outputs", "file"]):
            done = vm.serai(*line, env=env)
            assert done.returncode in (1, 125)
            assert "belong to this message, not 0; a forwarded socket" in done.stderr
        with Client(here, timeout=60) as client:
            assert client.exec("one", ["cat"], input=b"through").stdout == b"through"
            client.put("one", "outputs", "file", b"x")
    finally:
        forward.kill()
        forward.wait()
