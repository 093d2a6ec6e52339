"""The pool: what waits is nobody's, what is taken is a session as any other, and crashes leak none.

With real sandboxes; ``tests/container/runtime/test_sessions.py`` has real units.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import NOT_FOUND, SeraiError
from tests.sandbox.runtime.sessions.test_crash import check, uids
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for

AT_ONCE = "from serai.runtime.sessions import pool; pool.CALM = pool.LEAST_REST = 0.0"
"""Code with which the daemon fills the pool without a rest."""
FIT = "steps.Steps._fit_sandbox"


def hold(vm: Vm, size: int) -> None:
    """Set how many sessions wait."""
    text = vm.paths.settings.read_text().partition("[pool]")[0]
    vm.paths.settings.write_text(f"{text}[pool]\nsize = {size}\n")


def reload(vm: Vm) -> None:
    assert vm.daemon is not None
    vm.daemon.send_signal(signal.SIGHUP)


def full(vm: Vm, size: int) -> None:
    """Wait until so many wait, and no other is made or removed."""

    def reached() -> bool:
        found = vm.call("pool")
        units = sum(folder.is_dir() for folder in vm.cgroup.iterdir())
        homes = sum(folder.name != ".serai" for folder in vm.paths.sessions.iterdir())
        running = sum(each["state"] == "ready" for each in vm.sessions().values())
        counted = (found["wanted"], found["ready"], found["making"])
        return counted == (size, size, 0) and units == homes == running + size

    wait_for(reached, told=lambda: f"{vm.call('pool')}")


def waiting(vm: Vm) -> dict[str, int]:
    """Who waits, by name, read behind the daemon's back."""
    database = sqlite3.connect(vm.paths.registry)
    where = "pooled AND state = 'ready' AND goal IS NULL"
    found = dict(database.execute(f"SELECT name, uid FROM sessions WHERE {where}"))  # noqa: S608  # ours
    database.close()
    return found


def gate_state(vm: Vm, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((vm.paths.gate_state / f"{name}.json").read_text())
    return found


def test_one_that_waits_is_nobodys_and_denied_everything() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start()
        full(vm, 1)
        (name,) = waiting(vm)
        assert vm.sessions() == {}
        assert vm.call("gc", keep_days=0)["actions"] == []
        assert vm.call("egress")["sessions"] == {}
        for method in ("show", "stop", "archive", "reopen", "remove", "switch", "policy.show"):
            with pytest.raises(SeraiError) as refused:
                vm.call(method, name=name)
            assert refused.value.code == NOT_FOUND
        with vm.client() as client, pytest.raises(SeraiError, match="there is no session"):
            client.exec(name, ["true"])
        denied = gate_state(vm, name)["policy"]
        assert denied["deny"] == ["*", "0.0.0.0/0", "::/0"]
        assert denied["allow"] == denied["bind"] == []


def test_without_its_policy_one_that_waits_has_the_profiles_way_out() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start(weaken="from serai.runtime.sessions import pool; pool.POLICY = {}")
        full(vm, 1)
        (name,) = waiting(vm)
        assert gate_state(vm, name)["policy"]["deny"] == []


def test_one_that_is_taken_is_what_was_asked_for() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start()
        full(vm, 1)
        ((name, uid),) = waiting(vm).items()
        own = {"tasks": "64", "memory": "64M", "cpus": "0.5", "idle_freeze": "1h", "ttl": "1h"}
        asked = {"labels": {"task": "42"}, "env": {"COLOUR": "red"}, "limits": own}
        with vm.client() as client:
            client.call("subscribe")
            made = vm.call("create", request_id="r1", **asked)
            event, told = next(client.events())
        assert (event, told["name"], told["state"]) == ("session.changed", name, "ready")
        assert (made["name"], made["uid"], made["state"]) == (name, uid, "ready")
        assert made["created_at"] == made["used_at"] <= made["changed_at"]
        assert {key: made[key] for key in asked} == asked
        state = gate_state(vm, name)
        assert (state["policy"]["deny"], state["labels"]) == ([], asked["labels"])
        limited = json.loads((vm.root / f"limits-{name}").read_text())
        assert (limited["TasksMax"], limited["MemoryMax"]) == (64, 64 << 20)
        with vm.client() as client:
            assert client.exec(name, ["sh", "-c", "echo $COLOUR"]).stdout == b"red\n"
            sizes = client.exec(name, ["df", "--output=size", "-B1", "/tmp", "/dev/shm", "/home"])
        assert sizes.stdout.split()[1:] == [str(32 << 20).encode()] * 3
        (created,) = (
            each
            for each in vm.call("audit", after=None, limit=9, session=name)["entries"]
            if each.get("operation") == "create"
        )
        assert created["labels"] == asked["labels"]
        full(vm, 1)
        assert vm.call("create", request_id="r1", **asked)["uid"] == uid
        assert vm.call("pool")["taken"] == 1


def test_a_take_that_was_cut_off_leaves_no_room_that_was_not_asked_for() -> None:
    dies = "lambda _, record: record.own.limits and os.kill(os.getpid(), 9)"
    with opened() as vm:
        hold(vm, 1)
        vm.start(weaken=f"from serai.runtime.sessions.steps import steps; {FIT} = {dies}")
        full(vm, 1)
        (name,) = waiting(vm)
        with pytest.raises(SeraiError):
            vm.call("create", limits={"memory": "64M"})
        assert vm.daemon is not None
        assert vm.daemon.wait(30) == -9
        vm.start()
        assert vm.sessions()[name]["state"] == "ready"
        with vm.client() as client:
            sizes = client.exec(name, ["df", "--output=size", "-B1", "/tmp", "/dev/shm"])
        assert sizes.stdout.split()[1:] == [str(32 << 20).encode()] * 2


def test_who_asks_for_more_than_one_of_the_pool_can_be_gets_a_new_one() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start()
        full(vm, 1)
        before = waiting(vm)
        vm.call("create", name="one")
        vm.call("create", sandbox="sockets")
        assert waiting(vm) == before
        assert vm.call("pool")["taken"] == 0


def test_no_two_get_the_same_and_an_empty_pool_fails_nobody() -> None:
    with opened() as vm, ThreadPoolExecutor(6) as threads:
        hold(vm, 2)
        vm.start()
        full(vm, 2)
        made = list(threads.map(lambda _: vm.call("create"), range(6)))
        again = list(threads.map(lambda _: vm.call("create", request_id="same"), range(4)))
        assert len({each["uid"] for each in made}) == len(made)
        assert len({each["uid"] for each in again}) == 1
        counts = vm.call("pool")
        assert counts["taken"] >= 2
        assert counts["taken"] + counts["missed"] >= 7
        full(vm, 2)
        hold(vm, 0)
        reload(vm)
        full(vm, 0)
        check(vm)


def test_one_that_ends_while_it_waits_is_replaced() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start()
        full(vm, 1)
        (name,) = waiting(vm)
        (vm.cgroup / name / "cgroup.kill").write_text("1")
        wait_for(lambda: name not in waiting(vm))
        full(vm, 1)
        assert vm.call("create")["name"] != name


def test_one_that_ends_when_it_is_taken_is_started_again() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start()
        assert vm.daemon is not None
        for _ in range(3):
            full(vm, 1)
            (name,) = waiting(vm)
            with vm.client() as client:
                # It hears of both at once.
                vm.daemon.send_signal(signal.SIGSTOP)
                (vm.cgroup / name / "cgroup.kill").write_text("1")
                number = client.ask("create", {})
                wait_for(lambda name=name: "populated 0" in events(vm, name))  # type: ignore[misc]
                vm.daemon.send_signal(signal.SIGCONT)
                made = client.wait(number)
                assert made["state"] == "ready"
                assert client.exec(made["name"], ["true"]).status == 0
        full(vm, 1)


def events(vm: Vm, name: str) -> str:
    return (vm.cgroup / name / "cgroup.events").read_text()


def test_none_is_left_when_the_vm_was_restarted() -> None:
    with opened() as vm:
        hold(vm, 2)
        vm.start()
        full(vm, 2)
        made = vm.call("create")
        full(vm, 2)
        before = uids(vm)
        vm.kill()
        for unit in filter(Path.is_dir, vm.cgroup.iterdir()):
            (unit / "cgroup.kill").write_text("1")
        wait_for(lambda: vm.processes() == 0)
        hold(vm, 0)
        vm.start()
        assert {name: each["state"] for name, each in vm.sessions().items()} == {
            made["name"]: "stopped"
        }
        vm.call("reopen", name=made["name"])
        check(vm)
        assert vm.call("create")["uid"] not in before


def test_other_settings_and_a_new_daemon_make_it_anew() -> None:
    with opened() as vm:
        hold(vm, 2)
        vm.start()
        full(vm, 2)
        first = waiting(vm)
        hold(vm, 1)
        reload(vm)
        full(vm, 1)
        kept = waiting(vm)
        assert kept.items() < first.items()
        settings = vm.paths.settings.read_text()
        vm.paths.settings.write_text(f'hostname = "other"\n{settings}')
        reload(vm)
        wait_for(lambda: not kept.items() & waiting(vm).items())
        full(vm, 1)
        second = waiting(vm)
        vm.kill()
        vm.start()
        assert not waiting(vm).items() & second.items()
        full(vm, 1)
        name = vm.call("create")["name"]
        with vm.client() as client:
            assert client.exec(name, ["hostname"]).stdout == b"other\n"


def test_a_pool_that_cannot_be_filled_harms_nobody() -> None:
    with opened() as vm:
        hold(vm, 1)
        (vm.root / "break-start").touch()
        vm.start()
        wait_for(lambda: "told to fail" in (vm.call("pool")["problem"] or ""))
        assert vm.sessions() == {}
        (vm.root / "break-start").unlink()
        assert vm.call("create")["state"] == "ready"
        full(vm, 1)
        assert vm.call("pool")["problem"] is None
        log = (vm.root / "sessiond.log").read_text()
        assert log.count("the pool is not filled") == 1


def operate(vm: Vm) -> None:
    """Fill, take, fill again, and drain."""
    full(vm, 1)
    vm.call("create", request_id="r1", labels={"a": "b"}, limits={"tasks": "64"})
    full(vm, 1)
    hold(vm, 0)
    reload(vm)
    full(vm, 0)


def test_the_daemon_dies_before_every_step() -> None:
    with opened() as vm:
        hold(vm, 1)
        vm.start(weaken=AT_ONCE)
        operate(vm)
        wait_for(lambda: not list(vm.paths.removing.iterdir()))
        vm.stop()
        steps = (vm.root / "faults").read_text().split()
    assert steps.count("pool:journal") == 2
    assert {"ready:open-gate", "ready:arrive", "removing:stop", "removing:arrive"} <= set(steps)
    # The second one is made as the first was: that is not tried again.
    first = steps.index("ready:arrive")
    second = steps.index("pool:journal", first)
    whole = steps.index("ready:arrive", second)
    for fatal in [1, 2, *range(4, second + 2), *range(whole + 1, len(steps) + 1)]:
        with opened() as vm:
            hold(vm, 1)
            vm.start(fatal, AT_ONCE)
            with suppress(SeraiError):
                operate(vm)
            assert vm.daemon is not None
            assert vm.daemon.wait(30) == -9, f"it survived {steps[fatal - 1]}"
            before = uids(vm)
            hold(vm, 0)
            vm.start()
            assert vm.daemon.poll() is None, f"no start after {steps[fatal - 1]}"
            full(vm, 0)
            check(vm)
            # Whoever was not answered asks again, and gets the one that was made or is made now.
            kept = vm.sessions()
            asked = {"labels": {"a": "b"}, "limits": {"tasks": "64"}}
            mine = vm.call("create", request_id="r1", **asked)
            assert not kept or set(kept) == {mine["name"]}
            assert (mine["state"], mine["labels"]) == ("ready", {"a": "b"})
            new = vm.call("create")
            assert new["uid"] not in {*before, mine["uid"]}
