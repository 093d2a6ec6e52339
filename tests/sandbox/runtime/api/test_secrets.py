"""Secrets by sessiond and the command: passed on to the gate, and seen nowhere on the way."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serai import connect
from serai.common import errors
from serai.common.errors import SeraiError
from tests.support.fake_vm import DEADLINE, Vm
from tests.support.waiting import wait_for

VALUE = "sk-ant-" + "0123456789" * 4


@pytest.fixture(autouse=True)
def empty(vm: Vm) -> Iterator[None]:
    """No secrets before and after."""
    yield
    for each in listed(vm):
        vm.call("secret.remove", name=each, force=True)


def listed(vm: Vm) -> list[str]:
    return [each["name"] for each in vm.call("secret.list")["secrets"]]


def bind(vm: Vm, name: str, secret: str) -> None:
    """Write a binding into the registry, as a policy has it; sessiond must not run."""
    binding = {"secret": secret, "hosts": ["api.test"], "header": "X-Key: {}", "variable": ""}
    policy = {"profile": "default", "allow": [], "deny": [], "bind": [binding]}
    with closing(sqlite3.connect(vm.paths.registry)) as database:
        database.execute(
            "UPDATE sessions SET policy = ? WHERE name = ?", (json.dumps(policy), name)
        )
        database.commit()


def test_a_secret_comes_from_standard_input_or_a_file(vm: Vm, tmp_path: Path) -> None:
    with (tmp_path / "key").open("w+") as file:
        file.write(VALUE + "\n")
        file.seek(0)
        done = vm.serai("secret", "set", "one", stdin=file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = vm.serai("secret", "set", "two", "--file", str(tmp_path / "key"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shown = vm.serai("secret", "list").stdout.splitlines()
    assert shown[0].split() == ["NAME", "SET", "USED", "PROBLEM"]
    assert [line.split()[0] for line in shown[1:]] == ["one", "two"]
    assert vm.serai("secret", "rm", "one").returncode == 0
    assert json.loads(vm.serai("secret", "list", "--json").stdout)["secrets"][0]["name"] == "two"
    assert vm.serai("secret", "rm", "one").returncode == 1


def test_no_argument_is_a_value(vm: Vm) -> None:
    assert vm.serai("secret", "set", "one", VALUE).returncode == 2
    assert listed(vm) == []


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"\xff\n", b"x" * 100_000])
def test_what_is_no_secret_is_refused_in_a_line(vm: Vm, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    done = vm.serai("secret", "set", "one", "--file", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("serai: this cannot be a secret's value; it is one line of 1")
    assert done.stderr.count("\n") == 1
    done = vm.serai("secret", "set", "one", "--file", str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr == f"serai: {tmp_path}/none cannot be read: No such file or directory\n"


def test_a_terminal_shows_nothing_of_it(vm: Vm) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            ["/usr/bin/setsid", "--ctty", "--wait", *vm.command("secret", "set", "one")],
            env=vm.env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        while b"The value of one: " not in said:
            said += os.read(ours, 1000)
        os.write(ours, VALUE.encode() + b"\n")
        try:
            while more := os.read(ours, 1000):
                said += more
        except OSError:  # it has ended
            pass
        assert process.wait(DEADLINE) == 0, said
    finally:
        os.close(ours)
    assert VALUE.encode() not in said
    assert listed(vm) == ["one"]


def test_a_library_and_a_host_can(vm: Vm) -> None:
    with connect(f"unix://{vm.paths.control}") as client:
        client.set_secret("one", VALUE)
        (told,) = client.secrets()
        assert (told["name"], told["problem"]) == ("one", None)
        assert set(told) == {"name", "set", "used", "problem"}
        client.remove_secret("one")
        assert client.secrets() == []
    address = f"unix://{vm.paths.control}"
    arguments = ["--vm", address, "secret", "set", "far"]
    read, write = os.pipe()
    os.write(write, VALUE.encode())
    os.close(write)
    with os.fdopen(read) as source:
        done = vm.serai(*arguments, stdin=source)
    assert (done.returncode, done.stderr) == (0, "")
    assert listed(vm) == ["far"]


def test_a_bound_secret_is_not_removed_unasked(vm: Vm, name: str) -> None:
    vm.call("secret.set", name="one", value=VALUE)
    vm.kill()
    bind(vm, name, "one")
    vm.start()
    with pytest.raises(SeraiError, match=f"the secret one is bound by {name}") as caught:
        vm.call("secret.remove", name="one")
    assert caught.value.code == errors.CONFLICT
    vm.call("secret.set", name="other", value=VALUE)
    vm.call("secret.remove", name="other")
    assert listed(vm) == ["one"]
    done = vm.serai("secret", "rm", "one", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert listed(vm) == []


def test_no_log_error_or_file_has_a_value(vm: Vm) -> None:
    wrong: list[dict[str, object]] = [
        {"name": "one", "value": VALUE + "\n\n"},
        {"name": VALUE + "!", "value": "x"},
        {"name": "one", "value": [VALUE]},
        {"name": "one", "value": VALUE + "\ud800"},
        {"name": [], "value": VALUE},
        {"value": VALUE},
        {"name": "one", "value": VALUE, "more": VALUE},
    ]
    for params in wrong:
        with pytest.raises(SeraiError) as caught:
            vm.call("secret.set", **params)
        assert VALUE not in f"{caught.value.message} {caught.value.hint}"
    vm.call("secret.set", name="one", value=VALUE)
    vm.kill_gate()
    vm.start_gate()
    assert listed(vm) == ["one"]
    wait_for(lambda: not vm.sessions())  # or files of a removed one go while they are read
    for path in vm.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert VALUE.encode() not in path.read_bytes(), path


def test_a_gate_that_is_away_is_said_without_the_value(vm: Vm) -> None:
    vm.stop()
    hasty = "from serai.runtime.sessions.steps import gate_client"
    vm.start(weaken=f"{hasty}; gate_client.DEADLINE = 1.0")
    vm.kill_gate()
    try:
        with pytest.raises(SeraiError, match="the gate does not answer") as caught:
            vm.call("secret.set", name="one", value=VALUE)
        assert VALUE not in str(caught.value)
    finally:
        vm.start_gate()
        vm.stop()
        vm.start()
    assert listed(vm) == []
    assert VALUE not in (vm.root / "sessiond.log").read_text()
