"""Payloads through the daemon and by the command: their streams, signals, terminals and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from tests.support.fake_vm import Vm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("unharmed")


def test_input_output_and_status_are_streamed(vm: Vm) -> None:
    data = os.urandom(3 << 20)
    with vm.client() as client:
        done = client.exec("one", ["sh", "-c", "cat; echo end >&2; exit 7"], input=data)
        assert done.stdout == data
        assert (done.stderr, done.status, done.signal) == (b"end\n", 7, None)
        killed = client.exec("one", ["sh", "-c", "kill -9 $$"])
        assert (killed.status, killed.signal) == (137, 9)
        env = client.exec("one", ["sh", "-c", "echo $A; pwd"], env={"A": "b c"}, cwd="/tmp")
        assert env.stdout == b"b c\n/tmp\n"


def test_a_payload_that_takes_no_input_disturbs_no_later_call(vm: Vm) -> None:
    with vm.client() as client:
        for _ in range(20):
            assert client.exec("one", ["true"], input=b"x" * 300_000).status == 0
            assert client.call("show", name="one")["name"] == "one"


def test_timeout_ends_everything(vm: Vm) -> None:
    with vm.client() as client:
        script = "setsid sleep 999 & trap '' TERM; while :; do sleep 1; done"
        done = client.exec("one", ["sh", "-c", script], timeout=0.2)
        assert done.timed_out
        assert done.status == 124


def test_what_a_payload_leaves_behind_ends_with_it(vm: Vm) -> None:
    with vm.client() as client:
        script = "(setsid sh -c 'sleep 999 & sleep 999' &) ; nohup sleep 999 & echo done"
        assert client.exec("one", ["sh", "-c", script]).stdout == b"done\n"


def test_a_detached_payload_stays_until_the_session_stops(vm: Vm) -> None:
    vm.call("create", name="two")
    with vm.client() as client:
        options = {"detach": True, "stdio": "null"}
        started = client.call("exec", name="two", argv=["sleep", "999"], **options)
    assert Path(f"/proc/{started['pid']}").exists()
    assert vm.call("exec", name="two", argv=["true"])["status"] == 0
    vm.call("stop", name="two")
    wait_for(lambda: not Path(f"/proc/{started['pid']}").exists())
    vm.call("remove", name="two")
    wait_for(lambda: "two" not in vm.sessions())


def test_a_terminal_of_the_sandboxs_own(vm: Vm) -> None:
    with vm.client() as client:
        script = "tty; stty size; ps -o tty= -p $$"
        done = client.exec("one", ["sh", "-c", script], tty=True, rows=33, columns=99)
        assert b"/dev/pts/0\r\n33 99\r\n" in done.stdout


def test_a_frozen_session_cannot_be_entered_and_uses_no_cpu(vm: Vm) -> None:
    vm.call("create", name="cold")
    with vm.client() as client:
        options = {"detach": True, "stdio": "null"}
        busy = client.call("exec", name="cold", argv=["sh", "-c", "while :; do :; done"], **options)
    vm.call("switch", name="cold")
    vm.call("create", name="warm")
    vm.call("switch", name="warm")
    assert vm.sessions()["cold"]["state"] == "frozen"

    def used() -> int:
        fields = Path(f"/proc/{busy['pid']}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    with pytest.raises(SeraiError) as caught:
        vm.call("exec", name="cold", argv=["true"])
    assert caught.value.code == errors.WRONG_STATE
    time.sleep(0.3)  # as long as it could have used
    assert used() == before
    assert vm.call("switch", name="cold", keep_running=True)["state"] == "active"
    assert vm.sessions()["warm"]["state"] == "ready"
    wait_for(lambda: used() > before)
    for name in ("cold", "warm"):
        vm.call("remove", name=name)
    wait_for(lambda: set(vm.sessions()) == {"one"})


# The daemon stands still from before the payload's exec until its time for that is over.
LATE = """
import select
from serai.runtime.sessions.payloads import payloads
payloads.ENTER_DEADLINE = 0
def begin(*args, begin=payloads.begin, **more):
    arrival = begin(*args, **more)
    poll = select.poll()
    poll.register(arrival.socket, 0)  # the usher's end has been closed
    assert poll.poll(30_000)
    return arrival
payloads.begin = begin
"""


def test_a_payload_that_ran_while_the_daemon_stood_still_is_not_said_to_be_late(vm: Vm) -> None:
    assert vm.stop() == 0
    vm.start(weaken=LATE)
    with vm.client() as client:
        assert client.exec("one", ["echo", "well"]).stdout == b"well\n"
        with pytest.raises(SeraiError, match="cannot execute nowhere"):
            client.exec("one", ["nowhere"])
    assert vm.stop() == 0
    vm.start()


def test_signals_reach_the_payload_through_the_command(vm: Vm) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        name = number.name.removeprefix("SIG")
        script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
        process = subprocess.Popen(
            vm.command("exec", "one", "--", "sh", "-c", script),
            env=vm.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert out == f"got {name}\n"
        assert process.returncode == 9


def test_the_command_hands_over_its_own_files(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        argv = vm.command("exec", "one", "--", "cat")
        done = subprocess.run(argv, env=vm.env, stdin=given, stdout=taken, check=False, timeout=30)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "out"),
    [
        (["--", "sh", "-c", "exit 3"], 3, ""),
        (["--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (["--", "nonesuch"], 127, ""),
        (["--", "/etc/hostname"], 126, ""),
        (["--timeout", "0.2", "--", "sleep", "99"], 124, ""),
        (["--env", "A=1", "--cwd=/", "--", "sh", "-c", "echo $A $PWD"], 0, "1 /\n"),
        (["--", "printf", "%s", b"\xff\xfe"], 0, "\udcff\udcfe"),
        (["--json", "--", "echo", "hi"], 0, '"stdout": "hi\\n"'),
        (["--detach", "--", "true"], 0, ""),
    ],
)
def test_exec_ends_as_the_command_does(vm: Vm, arguments: list[Any], status: int, out: str) -> None:
    done = vm.serai("exec", "one", *arguments, errors="surrogateescape")
    assert done.returncode == status, done.stderr
    assert out in done.stdout
    assert bool(done.stderr) == (status in (126, 127))


def test_a_callers_terminal_is_relayed_not_handed_in(vm: Vm) -> None:
    master, slave = os.openpty()
    script = "test -t 0 || test -t 1 || test -t 2 || echo none; read line; echo got $line"
    process = subprocess.Popen(
        vm.command("exec", "one", "--", "sh", "-c", script),
        env=vm.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    assert until(master, b"none")
    os.write(master, b"hello\n")
    assert until(master, b"got hello")
    assert process.wait(30) == 0
    os.close(master)


def test_a_shell_has_the_sandboxs_terminal(vm: Vm) -> None:
    master, slave = os.openpty()
    process = subprocess.Popen(
        vm.command("shell", "one"),
        env=vm.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b"tty; stty -echo; echo $((6*7)); exit 5\n")
    assert b"/dev/pts/0" in until(master, b"42")
    assert process.wait(30) == 5
    os.close(master)


def until(descriptor: int, wanted: bytes) -> bytes:
    """Read a terminal until the text has come."""
    seen = b""
    while wanted not in seen:
        try:
            seen += os.read(descriptor, 4096)
        except OSError:
            raise AssertionError(f"the terminal ended after {seen!r}") from None
    return seen
