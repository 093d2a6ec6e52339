"""Who did what with sessions is in the audit log: before it is done, once, and without secrets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.gate.audit import chain
from serai.gate.audit.verify import verify
from tests.support.fake_vm import Vm, opened
from tests.support.ocsf import problems
from tests.support.waiting import wait_for

LOG_IS_FULL = """
import errno, pathlib
from serai.gate.audit import writer
kept = writer.Log.append
def append(self, entry):
    if pathlib.Path(FLAG).exists():
        raise OSError(errno.ENOSPC, "full")
    return kept(self, entry)
writer.Log.append = append
"""


@pytest.fixture
def vm() -> Iterator[Vm]:
    with opened() as made:
        made.start()
        yield made


def operations(vm: Vm, *keys: str) -> list[Any]:
    """The operations in the log: their names, or the values of more keys."""
    found = chain.read(vm.paths.audit, 0, 100_000)
    wanted = [each for each in found if each["event"] == "operation"]
    if not keys:
        return [each["operation"] for each in wanted]
    return [tuple(each.get(key) for key in ("operation", *keys)) for each in wanted]


def test_who_did_what_is_in_the_log(vm: Vm) -> None:
    uid = vm.call("create", name="one", env={"KEY": "s3cret"}, labels={"team": "a"})["uid"]
    vm.call("policy.set", name="one", allow=["a.example"])
    with vm.client() as client:
        assert client.exec("one", ["true", "--password=s3cret"]).status == 0
    vm.call("job.start", name="one", argv=["true", "s3cret"])
    vm.call("set", name="one", env={"KEY": "s3cret"})
    vm.call("stop", name="one")
    vm.call("reopen", name="one")
    vm.call("archive", name="one")
    with pytest.raises(SeraiError):
        vm.call("policy.set", name="one", allow=["not a host"])
    vm.call("remove", name="one")
    vm.call("list")
    wait_for(lambda: len(operations(vm)) >= 11)
    assert operations(vm) == [
        "create", "policy.set", "exec", "job.start", "set", "stop", "reopen", "archive",
        "policy.set", "policy.set", "remove",
    ]  # fmt: skip
    entries = [e for e in chain.read(vm.paths.audit, 0, 1000) if e["event"] == "operation"]
    for entry in entries:
        assert (entry["session"], entry["uid"]) == ("one", uid)
        assert entry["by"]["uid"] == 0 and entry["by"]["pid"] == os.getpid()
        assert entry["by"]["via"] in ("socket", "ssh")
    assert entries[0]["env"] == ["KEY"] and entries[0]["labels"] == {"team": "a"}
    assert entries[1]["allow"] == ["a.example"] and entries[2]["command"] == "true"
    assert "not a host" in entries[9]["error"]
    assert all(b"s3cret" not in file.read_bytes() for file in vm.paths.audit.iterdir())
    assert verify(vm.paths.audit).ok
    shown = vm.serai("audit", "--session", "one")
    assert shown.returncode == 0
    assert "one  exec  by uid 0" in shown.stdout and "command=true" in shown.stdout


def test_what_gives_more_is_not_done_without_a_log_and_what_takes_away_is() -> None:
    with opened() as vm:
        flag = vm.root / "full"
        vm.kill_gate()
        vm.gate_patch = LOG_IS_FULL.replace("FLAG", repr(str(flag)))
        vm.start_gate()
        vm.start()
        vm.call("create", name="one")
        flag.touch()
        for method, params in (
            ("create", {"name": "two"}),
            ("reopen", {"name": "one"}),
            ("policy.allow", {"name": "one", "rules": ["a.example"]}),
            ("set", {"name": "one", "labels": {"a": "b"}}),
        ):
            with pytest.raises(SeraiError, match="is not done, as it cannot be noted"):
                vm.call(method, **params)
        wait_for(lambda: set(vm.sessions()) == {"one"})
        assert vm.sessions()["one"]["labels"] == {}
        assert vm.call("policy.show", name="one")["allow"] == []
        denied = vm.call("policy.deny", name="one", rules=["a.example"])
        assert (denied["deny"], denied["recorded"]) == (["a.example"], False)
        assert vm.call("stop", name="one")["recorded"] is False
        shown = vm.serai("remove", "one")
        assert shown.returncode == 0 and "the audit log gets it as soon" in shown.stderr
        flag.unlink()
        wait_for(lambda: operations(vm)[1:] == ["policy.deny", "stop", "remove"], 20)
        assert "recorded" not in vm.call("create", name="three")


def test_nothing_is_noted_twice_when_the_daemon_is_killed(vm: Vm) -> None:
    vm.call("create", name="one", request_id="r")
    vm.kill()
    vm.start()
    assert vm.call("create", name="one", request_id="r")["state"] == "ready"
    vm.call("stop", name="one")
    vm.stop()
    vm.start()
    assert operations(vm) == ["create", "stop"]
    # Cut off after it was noted: what the next daemon finishes is its own entry.
    vm.stop()
    vm.start(fatal=2)
    with pytest.raises(SeraiError):
        vm.call("reopen", name="one")
    assert vm.daemon is not None and vm.daemon.wait(30) == -signal.SIGKILL
    vm.start()
    wait_for(lambda: len(operations(vm)) == 4)
    told = operations(vm, "goal")[2:]
    assert told == [("reopen", None), ("finish", "ready")]


def test_execs_wait_for_a_gate_that_is_away_and_too_many_are_counted() -> None:
    with opened() as vm:
        vm.start(weaken="from serai.runtime.sessions import notes as n\nn.MOST, n.LAST = 5, 20\n")
        vm.call("create", name="one")
        vm.kill_gate()
        with vm.client() as client:
            for _ in range(9):
                assert client.exec("one", ["true"]).status == 0
        vm.start_gate()
        wait_for(lambda: len(operations(vm)) == 7)
        assert operations(vm, "count")[1:] == [*[("exec", None)] * 5, ("dropped", 4)]
        vm.call("set", name="one", labels={"a": "b"})  # behind them: none of them waits any more
        with vm.client() as client:
            client.exec("one", ["true"])
        assert vm.stop() == 0  # what still waits is sent at the end
        assert operations(vm)[7:] == ["set", "exec"]


def test_a_session_that_ended_by_itself_was_stopped_by_sessiond(vm: Vm) -> None:
    vm.call("create", name="one")
    for pid in (vm.cgroup / "one/cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):  # they end with each other
            os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: len(operations(vm)) == 2)
    (entry,) = [e for e in chain.read(vm.paths.audit, 1, 9) if e["event"] == "operation"]
    assert entry["by"]["via"] == "sessiond" and "ended by itself" in entry["reason"]


def test_the_log_comes_as_lines_and_as_events(vm: Vm) -> None:
    vm.call("create", name="one")
    vm.call("policy.allow", name="one", rules=["a.example"])
    lines = vm.serai("audit", "--format", "jsonl").stdout.splitlines()
    assert lines == vm.serai("audit", "--json").stdout.splitlines()
    assert [json.loads(each)["event"] for each in lines] == ["operation"] * 2
    events = [
        json.loads(each) for each in vm.serai("audit", "--format", "ocsf").stdout.splitlines()
    ]
    assert [each["api"]["operation"] for each in events] == ["create", "policy.allow"]
    assert [problems(each) for each in events] == [[], []]
