"""Sessions that idle are really frozen, and woken by use; ends of times to live."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from serai import connect
from tests.sandbox.runtime.api.test_exec import until
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for

HURRY = """
from serai.runtime.sessions import own
from serai.runtime.sessions.watches import idle
own.LEAST_TIME = 1
idle.run.__defaults__ = (0.1,)
idle.seconds = lambda text: 0.8
"""
"""A daemon that looks often, for which a session idles soon."""


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        machine.start(weaken=HURRY)
        yield machine


def freezes(vm: Vm, name: str) -> Callable[[], bool]:
    """Whether it is frozen, by what the kernel and sessiond say. To ask is no use of it."""

    def frozen() -> bool:
        events = (vm.cgroup / name / "cgroup.events").read_text().splitlines()
        return "frozen 1" in events and vm.sessions()[name]["state"] == "frozen"

    return frozen


def another_freezes(vm: Vm) -> None:
    """Wait until a session that nobody uses has frozen: one that has idled for longer has, too."""
    other = vm.call("create", limits={"idle_freeze": "10s"})["name"]
    wait_for(freezes(vm, other))
    vm.call("remove", name=other)


def test_a_session_that_idles_freezes_and_one_that_works_does_not(vm: Vm, name: str) -> None:
    command = vm.command("exec", name, "--", "sh", "-c", "echo up; read line")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=vm.env, stdin=pipe, stdout=pipe) as waiting:
        assert waiting.stdout is not None and waiting.stdout.readline() == b"up\n"
        assert vm.serai("set", name, "--idle-freeze", "10s").returncode == 0
        before = vm.call("show", name=name)
        another_freezes(vm)
        busy = vm.serai("start", name, "--", "sh", "-c", "while :; do :; done").stdout.strip()
        waiting.communicate(b"done\n", timeout=30)
    another_freezes(vm)
    assert vm.call("show", name=name)["changed_at"] == before["changed_at"], "it froze meanwhile"
    waits = vm.serai("start", name, "--", "sleep", "999").stdout.strip()
    vm.serai("kill", busy, "--signal", "KILL")
    wait_for(freezes(vm, name))
    assert "reason: it idled" in vm.serai("show", name).stdout
    elsewhere = ("--vm", f"unix://{vm.paths.control}")
    assert vm.serai(*elsewhere, "ls", name, "home").returncode == 0
    assert vm.call("show", name=name)["state"] == "frozen", "to look into it is no use of it"
    for use in (
        ("exec", name, "--", "true"),
        ("put", name, "outputs", "file"),
        ("kill", waits, "--signal", "KILL"),
    ):
        done = vm.serai(*use)
        assert (done.returncode, done.stderr) == (0, ""), use
        assert vm.call("show", name=name)["changed_at"] > before["changed_at"], use
        wait_for(freezes(vm, name))
        before = vm.call("show", name=name)
    assert vm.call("job.show", job=waits)["reason"] == "signal"


def test_a_terminal_s_input_and_end_and_attaching_a_job_wake_it(vm: Vm, name: str) -> None:
    assert vm.serai("set", name, "--idle-freeze", "10s").returncode == 0
    master, slave = os.openpty()
    command = vm.command("exec", name, "-t", "--", "sh", "-c", "read line; echo got $line")
    process = subprocess.Popen(command, env=vm.env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    wait_for(lambda: vm.payloads(name))
    wait_for(freezes(vm, name))
    os.write(master, b"hello\n")
    assert until(master, b"got hello")
    assert process.wait(30) == 0
    os.close(master)
    master, slave = os.openpty()
    saves = "trap 'echo saved >mnt/outputs/work; exit' HUP; echo up; read line"
    command = vm.command("exec", name, "-t", "--", "sh", "-c", saves)
    process = subprocess.Popen(command, env=vm.env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    assert until(master, b"up")
    wait_for(freezes(vm, name))
    process.kill()
    process.wait()
    os.close(master)
    wait_for(lambda: vm.serai("get", name, "outputs", "work").stdout == "saved\n")
    job = vm.serai("start", name, "--stdin", "--", "cat").stdout.strip()
    wait_for(freezes(vm, name))
    changed = vm.call("show", name=name)["changed_at"]
    command, pipe = vm.command("attach-job", job), subprocess.PIPE
    with subprocess.Popen(command, env=vm.env, stdin=pipe, stdout=pipe) as attached:
        wait_for(lambda: vm.call("show", name=name)["changed_at"] > changed)
        wait_for(freezes(vm, name))
        assert attached.communicate(b"hi\n", timeout=30)[0] == b"hi\n"


def test_a_forwarded_connection_wakes_it(vm: Vm, name: str) -> None:
    assert vm.serai("set", name, "--idle-freeze", "10s").returncode == 0
    serve = (
        "import socket; s = socket.create_server(('127.0.0.1', 3000)); print('up', flush=True)\n"
    )
    serve += "while True: end = s.accept()[0]; end.sendall(end.recv(9)); end.sendall(end.recv(9))"
    job = vm.call("job.start", name=name, argv=["python3", "-c", serve])["job"]
    wait_for(lambda: vm.call("job.show", job=job)["written"])
    with connect(f"unix://{vm.paths.control}") as machine:
        url = machine.session(name).forward(3000)
        wait_for(freezes(vm, name))
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(place, timeout=30) as end:
            end.sendall(b"new")
            assert end.recv(9) == b"new"
            wait_for(freezes(vm, name))
            end.sendall(b"old")
            assert end.recv(9) == b"old"


def test_a_time_to_live_ends_in_the_archive_also_if_nobody_watched(vm: Vm, name: str) -> None:
    vm.serai("exec", name, "--", "sh", "-c", "echo kept >file")
    vm.call("set", name=name, limits={"ttl": "2s"})
    vm.kill()
    vm.start(weaken=HURRY)
    wait_for(lambda: vm.call("show", name=name)["state"] == "archived")
    assert "reason: its time to live is over" in vm.serai("show", name).stdout
    assert vm.serai("set", name, "--ttl", "1h").returncode == 0
    assert vm.serai("reopen", name).returncode == 0
    assert "ends: " in vm.serai("show", name).stdout
    assert vm.serai("exec", name, "--", "cat", "file").stdout == "kept\n"
    assert vm.serai("set", name, "--ttl", "default").returncode == 0
    assert vm.call("show", name=name)["ends_at"] is None
