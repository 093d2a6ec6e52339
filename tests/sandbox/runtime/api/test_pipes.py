"""What a payload does with the pipes that it gets, and what of that its caller notices."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_vm import DEADLINE, PYTHON, Vm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("unharmed")

NAMES = ["sh", "-c", "echo a >/dev/stdout; echo b >/dev/stderr; echo c | tee /dev/stderr"]


def run(vm: Vm, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        vm.command("exec", "one", *words), env=vm.env, check=False, timeout=DEADLINE, **options
    )


def test_its_outputs_can_be_opened_by_their_names(vm: Vm, tmp_path: Path) -> None:
    done = run(vm, "--", *NAMES, capture_output=True)
    assert (done.stdout, done.stderr) == (b"a\nc\n", b"b\nc\n")
    with (tmp_path / "log").open("wb") as log:
        run(vm, "--", *NAMES, stdout=log, stderr=log)
    assert sorted((tmp_path / "log").read_bytes().split()) == [b"a", b"b", b"c", b"c"]
    told = json.loads(run(vm, "--json", "--", *NAMES, capture_output=True).stdout)
    assert (told["stdout"], told["stderr"]) == ("a\nc\n", "b\nc\n")
    with vm.client() as client:
        streamed = client.exec("one", NAMES)
    assert (streamed.stdout, streamed.stderr) == (b"a\nc\n", b"b\nc\n")


def test_so_can_its_input(vm: Vm) -> None:
    done = run(vm, "--", "cat", "/dev/stdin", input=b"given", capture_output=True)
    assert done.stdout == b"given"


def test_nobody_reads_from_the_pipe_that_others_write_to(vm: Vm) -> None:
    """A caller's pipeline is shared with whatever else the caller runs in it."""
    done = run(vm, "--", "sh", "-c", "exec 3</dev/stdout", capture_output=True)
    assert b"Permission denied" in done.stderr
    done = run(vm, "--", "sh", "-c", "exec 3>/dev/stdin", input=b"", capture_output=True)
    assert b"Permission denied" in done.stderr


def test_a_named_pipe_keeps_its_owner_and_mode(vm: Vm, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    both = os.open(fifo, os.O_RDWR)
    done = run(vm, "--", "echo", "said", stdout=both)
    assert (done.returncode, os.read(both, 99)) == (0, b"said\n")
    os.close(both)
    info = fifo.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o600, 0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_caller_s_flags_are_as_they_were(vm: Vm, number: int) -> None:
    """A payload may set O_NONBLOCK, on purpose or as Node does."""
    code = f"import os; os.set_blocking({number}, False)"
    ends = os.pipe()
    given = ends[0 if number == 0 else 1]
    streams = {"stdin": subprocess.DEVNULL, ("stdin", "stdout", "stderr")[number]: given}
    assert run(vm, "--", PYTHON, "-c", code, **streams).returncode == 0
    assert os.get_blocking(given)
    for end in ends:
        os.close(end)


def test_json_does_not_wait_for_its_input(vm: Vm) -> None:
    """Harnesses leave it open; a socket is what Node's spawn makes."""
    for left_open in (os.pipe(), tuple(end.detach() for end in socket.socketpair())):
        done = run(vm, "--json", "--", "echo", "hi", stdin=left_open[0], stdout=subprocess.PIPE)
        assert json.loads(done.stdout)["stdout"] == "hi\n"
        late = ["--json", "--timeout", "0.2", "--", "sleep", "999"]
        done = run(vm, *late, stdin=left_open[0], stdout=subprocess.PIPE)
        assert json.loads(done.stdout)["timed_out"] is True
        for end in left_open:
            os.close(end)


def test_json_reads_nothing_that_the_command_does_not_read(vm: Vm) -> None:
    exec_json = " ".join(vm.command("exec", "one", "--json", "--", "echo"))
    script = f"printf 'a\\nb\\n' | while read -r x; do {exec_json} $x; done"
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=vm.env, stdout=subprocess.PIPE, check=True, timeout=DEADLINE
    )
    assert [json.loads(line)["stdout"] for line in done.stdout.splitlines()] == ["a\n", "b\n"]


def test_json_gives_the_command_its_input_whatever_that_is(vm: Vm, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("given")
    given.chmod(0o666)  # others may write to it: relayed
    with given.open() as file:
        done = run(vm, "--json", "--", "cat", stdin=file, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["stdout"] == "given"
    done = run(vm, "--json", "--", "cat", input=b"piped", stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["stdout"] == "piped"


def test_a_signal_reaches_what_json_waits_for(vm: Vm) -> None:
    script = "trap 'echo got; exit 9' TERM; touch tmp/ready; while :; do sleep 0.01; done"
    ready = vm.paths.home("one") / "tmp/ready"
    process = subprocess.Popen(
        vm.command("exec", "one", "--json", "--", "sh", "-c", script),
        env=vm.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    wait_for(ready.exists)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=DEADLINE)
    assert (process.returncode, json.loads(output)["stdout"]) == (9, "got\n")


def test_a_terminal_whose_input_nobody_reads_keeps_no_signal_from_going_on(vm: Vm) -> None:
    code = "import os, signal, tty\ntty.setraw(0)\nos.write(1, b'raw')\nsignal.pause()"
    command = vm.command("exec", "one", "--tty", "--", "python3", "-c", code)
    with subprocess.Popen(
        command, env=vm.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        pipe, given = process.stdin.fileno(), 0
        os.set_blocking(pipe, False)

        def flooded() -> bool:
            """Whether its caller has read more than it can pass on, and no more is read."""
            nonlocal given
            try:
                given += os.write(pipe, bytes(1 << 16))
            except BlockingIOError:
                return given >= 2 << 16
            return False

        try:
            assert process.stdout.read(3) == b"raw"
            wait_for(flooded)
            process.terminate()
            assert process.wait(DEADLINE) == 128 + signal.SIGTERM
        finally:
            process.kill()


def test_a_terminal_s_input_ends_with_its_caller_s(vm: Vm) -> None:
    done = run(vm, "--tty", "--", "cat", input=b"given\n", capture_output=True)
    assert done.returncode == 0 and b"given" in done.stdout


def test_a_program_that_closes_its_terminal_before_it_ends_has_its_own_status(vm: Vm) -> None:
    code = (
        "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "for each in range(3): os.close(each)\n"
        "os._exit(1 if signal.sigtimedwait([signal.SIGHUP], 1) else 7)"
    )
    assert run(vm, "--tty", "--", "python3", "-c", code, stdin=subprocess.DEVNULL).returncode == 7
