"""``serai run``: the session is there for the command, and gone with it if that is wanted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_vm import DEADLINE, Vm
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def nothing_left(vm: Vm) -> Iterator[None]:
    """No test leaves a session behind."""
    before = set(vm.sessions())
    yield
    wait_for(lambda: set(vm.sessions()) == before)


def test_a_command_runs_in_a_session_that_is_gone_then(vm: Vm) -> None:
    done = vm.serai("run", "--rm", "--env", "A=b", "--", "sh", "-c", "echo $A; exit 3", "--", "x")
    assert (done.returncode, done.stdout, done.stderr) == (3, "b\n", "")


def test_without_that_the_session_stays_and_is_named(vm: Vm) -> None:
    done = vm.serai("run", "--name", "kept", "--label", "task=1", "--", "touch", "there")
    assert (done.returncode, done.stderr) == (0, "serai: the session is kept\n")
    assert vm.serai("exec", "kept", "--", "ls", "there").returncode == 0
    assert vm.call("show", name="kept")["labels"] == {"task": "1"}
    vm.call("remove", name="kept")


def test_directories_are_attached_before_it_runs(vm: Vm, share: Path) -> None:
    (share / "file").write_text("content\n")
    attach = f"--attach=workdir={share}:ro"
    done = vm.serai("run", "--rm", attach, "--", "sh", "-c", "cat mnt/workdir/file; >mnt/workdir/x")
    assert done.stdout == "content\n"
    assert done.returncode == 2
    assert sorted(path.name for path in share.iterdir()) == ["file", "given"]


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["--attach=workdir=/nowhere"], "/nowhere", 125),
        (["--attach=workdir"], "'workdir' is not ROLE=PATH", 2),
        (["--profile=none-such"], "none-such", 125),
        (["--timeout=nan"], "is no number of seconds above 0", 2),
        (["--name=Wrong"], "Wrong", 125),
    ],
)
def test_what_cannot_be_leaves_no_session(vm: Vm, words: list[str], said: str, status: int) -> None:
    done = vm.serai("run", *words, "--", "true")
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]


def test_a_command_that_does_not_exist_leaves_none_either(vm: Vm) -> None:
    done = vm.serai("run", "--rm", "--", "none-such")
    assert done.returncode == 127


def test_ctrl_c_ends_the_command_and_the_session(vm: Vm) -> None:
    argv = vm.command("run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 600")
    with subprocess.Popen(argv, env=vm.env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
