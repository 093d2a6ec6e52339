"""kill -9 of the real daemon before every step it journals; then it starts again."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for


def operate(vm: Vm) -> None:
    """Every operation there is, each leading through another part of the state machine."""
    vm.call("create", name="one", request_id="r1")
    vm.call("create", name="two", limits={"memory": "64M"})
    vm.call("set", name="one", limits={"memory": "64M", "quota": "8M"}, env={"COLOUR": "red"})
    vm.call("switch", name="one")
    vm.call("switch", name="two")
    vm.call("stop", name="one")
    vm.call("archive", name="one")
    vm.call("reopen", name="one")
    vm.call("switch", name="one", keep_running=True)
    vm.call("archive", name="two")
    vm.call("remove", name="two")
    wait_for(lambda: "two" not in vm.sessions())


def check(vm: Vm) -> None:
    """Nothing is half-way, nothing is lost or left over, and everything can be used."""
    sessions = vm.sessions()
    states = {name: each["state"] for name, each in sessions.items()}
    assert all(each["goal"] is None for each in sessions.values()), states
    assert list(states.values()).count("active") <= 1
    homes = {path.name: path for path in vm.paths.sessions.iterdir() if path.name != ".serai"}
    wait_for(lambda: not list(vm.paths.removing.iterdir()))
    assert not list(vm.paths.making.iterdir())
    alive = {name for name, each in states.items() if each != "removing"}
    assert set(homes) == alive
    for name in alive:
        info = homes[name].stat()
        locked = states[name] == "archived"
        wanted = (0, 0) if locked else (info.st_gid, 0o700)
        assert info.st_gid == sessions[name]["uid"]
        assert (info.st_uid, info.st_mode & 0o7777) == wanted
        inside = (homes[name] / "mnt/outputs").stat()
        assert inside.st_uid == sessions[name]["uid"]
    running = {name for name in alive if states[name] in ("ready", "active", "frozen")}
    units = {folder.name for folder in vm.cgroup.iterdir() if folder.is_dir()}
    assert units == running
    published = {folder.name for folder in (vm.paths.run / "sessions").iterdir()}
    assert published == running
    users = (vm.paths.users / "passwd").read_text()
    assert {line.split(":")[0] for line in users.splitlines()} == alive
    for name in sorted(running):
        events = (vm.cgroup / name / "cgroup.events").read_text()
        assert f"frozen {int(states[name] == 'frozen')}" in events.splitlines()
        limits = json.loads((vm.root / f"limits-{name}").read_text())
        own = sessions[name]["limits"]
        assert limits.get("MemoryMax") == (64 << 20 if own else None) or "memory" not in own
        if states[name] != "frozen":
            with vm.client() as client:
                assert (
                    client.exec(name, ["id", "-u"]).stdout.strip()
                    == str(sessions[name]["uid"]).encode()
                )


def test_the_daemon_dies_before_every_step() -> None:
    with opened() as vm:
        vm.start()
        operate(vm)
        vm.stop()
        steps = (vm.root / "faults").read_text().split()
    assert len(steps) > 25
    assert {step.partition(":")[2] for step in steps} >= {
        *("journal", "make-home", "start", "freeze", "thaw", "stop", "lock-home", "unlock-home"),
        *("move-home-away", "arrive", "forget", "limit-unit", "limit-disk", "mount-folders"),
    }
    for fatal in range(1, len(steps) + 1):
        with opened() as vm:
            vm.start(fatal)
            with suppress(SeraiError):
                operate(vm)
            assert vm.daemon is not None
            log = (vm.root / "sessiond.log").read_text
            assert vm.daemon.wait(30) == -9, f"it survived {steps[fatal - 1]}: {log()}"
            before = uids(vm)
            vm.start()
            assert vm.daemon.poll() is None, f"no start after {steps[fatal - 1]}"
            check(vm)
            # What was asked for and not confirmed may be asked for again.
            one = vm.call("create", name="one", request_id="r1") if fatal < 8 else None
            assert one is None or one["state"] in ("ready", "active", "frozen")
            new = vm.call("create")
            assert new["uid"] not in before
            check(vm)


def uids(vm: Vm) -> set[int]:
    """Every UID that the registry ever knew, read behind the daemon's back."""
    database = sqlite3.connect(vm.paths.registry)
    (following,) = database.execute("SELECT value FROM counters").fetchone()
    database.close()
    return set(range(2000, following))


def test_it_dies_at_random_under_load_and_sessions_go_on() -> None:
    chance = random.Random(7)  # repeatable
    with opened() as vm:
        vm.start()
        kept = vm.call("create", name="kept")
        with vm.client() as client:
            detached = client.call(
                "exec", name="kept", argv=["sleep", "1000"], detach=True, stdio="null"
            )
        confirmed: dict[str, int] = {}
        for _ in range(6):
            threads = [threading.Thread(target=load, args=(vm, confirmed)) for _ in range(4)]
            for thread in threads:
                thread.start()
            wanted = len(confirmed) + chance.randint(1, 4)
            wait_for(lambda wanted=wanted: len(confirmed) >= wanted)  # type: ignore[misc]
            vm.kill()
            for thread in threads:
                thread.join(30)
            vm.start()
            check(vm)
            found = vm.sessions()
            assert found["kept"]["uid"] == kept["uid"]
            assert found["kept"]["state"] == "ready"
            assert Path(f"/proc/{detached['pid']}").exists(), "a session died with the daemon"
            for name, uid in confirmed.items():
                assert found[name]["uid"] == uid
        assert len(set(confirmed.values())) == len(confirmed)
        for name in list(vm.sessions()):
            vm.call("remove", name=name)
        wait_for(lambda: not vm.sessions())
        wait_for(lambda: vm.processes() == 0)


def load(vm: Vm, confirmed: dict[str, int]) -> None:
    """Create sessions and use them until the daemon is gone."""
    with suppress(SeraiError):
        while True:
            made = vm.call("create")
            confirmed[made["name"]] = made["uid"]
            with vm.client() as client:
                client.exec(made["name"], ["sh", "-c", "setsid sleep 999 & echo x"])
            vm.call("stop", name=made["name"])


def test_payloads_end_with_the_daemon_that_had_their_client() -> None:
    with opened() as vm:
        vm.start()
        vm.call("create", name="one")
        idle = vm.processes()
        with vm.client() as client:
            client.ask("exec", {"name": "one", "argv": ["sleep", "1000"], "stdio": "null"})
            wait_for(lambda: vm.processes() == idle + 1)
            vm.kill()
        vm.start()
        wait_for(lambda: vm.processes() == idle)


def lost_writes(vm: Vm) -> None:
    """The registry as it was before the last operations, as if the disk had lost them."""
    vm.kill()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{vm.paths.registry}{suffix}").unlink(missing_ok=True)
    (vm.root / "copy.sqlite").rename(vm.paths.registry)


def copied(vm: Vm) -> None:
    source = sqlite3.connect(vm.paths.registry)
    target = sqlite3.connect(vm.root / "copy.sqlite")
    source.backup(target)
    source.close()
    target.close()


@pytest.mark.parametrize("last", [lambda _vm: None, lambda vm: vm.call("archive", name="two")])
def test_a_registry_from_yesterday_loses_no_home_and_repeats_no_uid(
    last: Callable[[Vm], object],
) -> None:
    with opened() as vm:
        vm.start()
        vm.call("create", name="one")
        copied(vm)
        second = vm.call("create", name="two")
        last(vm)
        lost_writes(vm)
        vm.start()
        check(vm)
        found = vm.sessions()
        assert found["two"]["uid"] == second["uid"]
        assert vm.call("create")["uid"] > second["uid"]
        assert vm.call("reopen", name="two")["state"] == "ready"
        check(vm)


def test_after_a_restart_of_the_vm_sessions_are_stopped_and_start_again() -> None:
    with opened() as vm:
        vm.start()
        operate(vm)
        vm.kill()
        (vm.cgroup / "one" / "cgroup.kill").write_text("1")
        wait_for(lambda: vm.processes() == 0)
        vm.start()
        assert vm.sessions()["one"]["state"] == "stopped"
        assert vm.call("switch", name="one")["state"] == "active"
        check(vm)


def test_a_sandbox_that_dies_is_noticed() -> None:
    with opened() as vm:
        vm.start()
        vm.call("create", name="one")
        with vm.client() as client:
            client.call("subscribe")
            (vm.cgroup / "one" / "cgroup.kill").write_text("1")
            event, session = next(client.events())
        assert (event, session["name"], session["state"]) == ("session.changed", "one", "stopped")
        check(vm)
        assert vm.call("reopen", name="one")["state"] == "ready"
        check(vm)


def test_a_session_that_cannot_start_leaves_nothing() -> None:
    with opened() as vm:
        vm.start()
        vm.call("create", name="one")
        vm.call("stop", name="one")
        (vm.root / "break-start").touch()
        with pytest.raises(SeraiError, match="told to fail"):
            vm.call("create", name="two")
        with pytest.raises(SeraiError, match="told to fail"):
            vm.call("switch", name="one")
        wait_for(lambda: "two" not in vm.sessions())
        assert vm.sessions()["one"]["state"] == "stopped"
        check(vm)
        (vm.root / "break-start").unlink()
        assert vm.call("create", name="two")["uid"] == 2002
        check(vm)


def test_a_second_daemon_does_not_start() -> None:
    with opened() as vm:
        vm.start()
        first = vm.daemon
        vm.start()
        assert vm.daemon is not None
        assert vm.daemon.wait(30) == 1
        vm.daemon = first
        assert vm.call("list") == {"sessions": []}
