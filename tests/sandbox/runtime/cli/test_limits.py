"""A session's own limits, labels and variables with a real sessiond; systemd is a stand-in."""

from __future__ import annotations

import json
from typing import Any

from serai.common.errors import INVALID_PARAMS, SeraiError
from tests.support.fake_vm import Vm


def shown(vm: Vm, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vm.serai("show", name, "--json").stdout)
    return found


def variable(vm: Vm, name: str, *options: str) -> str:
    said = "echo ${COLOUR-none}"
    return vm.serai("exec", name, *options, "--", "sh", "-c", said).stdout.strip()


def limits(vm: Vm, name: str) -> dict[str, int]:
    """What systemd was told."""
    found: dict[str, int] = json.loads((vm.root / f"limits-{name}").read_text())
    return found


def test_they_change_while_it_runs_and_outlive_the_daemon_and_its_stop(vm: Vm, name: str) -> None:
    assert variable(vm, name) == "none"
    wanted = ("--memory", "64M", "--cpus", "0.5", "--tasks", "99", "--env", "COLOUR=red")
    done = vm.serai("set", name, *wanted, "--label", "task=42")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    promised = {"MemoryMax": 64 << 20, "CPUQuotaPerSecUSec": 500000, "TasksMax": 99}
    assert limits(vm, name) == promised
    assert (variable(vm, name), variable(vm, name, "--env", "COLOUR=blue")) == ("red", "blue")
    before = shown(vm, name)
    assert before["limits"] == {"memory": "64M", "cpus": "0.5", "tasks": "99"}
    vm.kill()
    vm.start()
    (vm.root / f"limits-{name}").unlink()
    for step in ("archive", "reopen"):
        assert vm.serai(step, name).returncode == 0
    after = shown(vm, name)
    for key in ("limits", "env", "labels"):
        assert after[key] == before[key]
    assert (limits(vm, name), variable(vm, name)) == (promised, "red")
    assert vm.serai("set", name, "--cpus", "default", "--env", "COLOUR=").returncode == 0
    assert (shown(vm, name)["limits"], variable(vm, name)) == ({"memory": "64M", "tasks": "99"}, "")
    assert vm.serai("set", name, "--env", "COLOUR").returncode == 0
    assert variable(vm, name) == "none"


def test_a_new_session_has_them_from_the_beginning(vm: Vm) -> None:
    wanted = ("--memory", "50M", "--quota", "8M", "--env", "COLOUR=red", "--label", "task=7")
    assert vm.serai("create", "given", *wanted).returncode == 0
    assert limits(vm, "given")["MemoryMax"] == 50 << 20
    assert variable(vm, "given") == "red"
    found = vm.serai("list", "--label", "task=7").stdout.splitlines()
    assert [row.split()[0] for row in found] == ["NAME", "given"]
    assert len(vm.serai("list", "--label", "task=7", "--label", "a=b").stdout.splitlines()) == 1
    said = vm.serai("show", "given").stdout.splitlines()
    assert {"own limits: memory=50M quota=8M", "env: COLOUR=red"} <= set(said)
    assert "egress: 0 bytes sent, 0 received" in said
    usage = shown(vm, "given")["usage"]
    assert (usage["sent"], usage["received"]) == (0, 0)
    assert usage["cpu_seconds"] > 0
    vm.serai("stop", "given")
    assert shown(vm, "given")["usage"] is None
    vm.serai("remove", "given")


def test_of_a_wrong_change_nothing_is_kept(vm: Vm, name: str) -> None:
    vm.serai("set", name, "--tasks", "99")
    before = shown(vm, name)
    for wrong in ("1Q", "0", "-1", "nan", "1T", ""):
        done = vm.serai("set", name, "--tasks", "77", f"--memory={wrong}", "--label", "a=b")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), wrong
        assert done.stderr.startswith("serai: memory: "), wrong
    for limit in ({"memory": 5}, {"disk": "1G"}, {"cpus": "1", "tasks": "x"}):
        try:
            vm.call("set", name=name, limits=limit, labels={"a": "b"})
        except SeraiError as error:
            assert error.code == INVALID_PARAMS
        else:
            raise AssertionError(limit)
    after = shown(vm, name)
    for key in ("limits", "env", "labels"):
        assert after[key] == before[key]
    assert vm.serai("create", "wrong", "--memory", "1Q").returncode == 1
    assert "wrong" not in vm.sessions()


def test_a_gate_that_is_gone_holds_no_show_up(vm: Vm, name: str) -> None:
    vm.kill_gate()
    try:
        usage = shown(vm, name)["usage"]
        assert (usage["sent"], usage["received"]) == (None, None)
        assert "egress:" not in vm.serai("show", name).stdout
    finally:
        vm.start_gate()
