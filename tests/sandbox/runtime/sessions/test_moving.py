"""Exports, imports and moves with real daemons, which are killed at every step."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serai import connect
from serai.common.errors import BUSY, CONFLICT, GONE, SeraiError
from serai.common.labels import DOCTOR
from serai.runtime import moving
from serai.runtime.client import Client
from serai.runtime.library import Session
from serai.runtime.library import Vm as End
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for

FILL = """cd; mkdir -p d/e; echo hi >d/f; ln d/f d/g; ln -s /etc/passwd d/l; chmod 000 d/f
truncate -s 40M d/holes; printf x | dd of=d/holes bs=1 seek=30000000 conv=notrunc status=none
python3 -c 'import os; os.setxattr("d/holes", "user.k", b"\\xff\\0\\n=")'
mkdir shut; chmod 500 shut; : >"$(printf 'n\\377')"; touch -d '2001-02-03 04:05:06.789' d/e"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Vm, Vm]]:
    with opened() as source, opened() as target:
        source.start()
        target.start()
        yield source, target


def address(vm: Vm) -> str:
    return f"unix://{vm.paths.control}"


def content(root: Path) -> dict[str, Any]:
    """All that is below a directory, and what is kept of it."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        info = path.lstat()
        facts: tuple[Any, ...] = (info.st_mode, info.st_mtime_ns)
        if path.is_symlink():
            facts = (info.st_mode, path.readlink())
        elif path.is_file():
            names = sorted(os.listxattr(path))
            marks = [os.getxattr(path, each) for each in names]
            data = path.read_bytes()
            facts = (*facts, info.st_nlink, info.st_blocks < 8192, data, names, marks)
        found[str(path.relative_to(root))] = facts
    return found


def filled(vm: Vm, name: str) -> dict[str, Any]:
    vm.call("create", name=name, labels={"task": "42"}, env={"X": "1"})
    vm.call("policy.allow", name=name, rules=["example.com"])
    with vm.client() as client:
        assert client.exec(name, ["bash", "-ec", FILL]).status == 0
    return content(vm.paths.home(name))


def exported(session: Session) -> io.BytesIO:
    spool = io.BytesIO()
    session.export(spool)
    spool.seek(0)
    return spool


def verified(vm: Vm) -> None:
    assert vm.call("audit.verify")["ok"]


def test_an_export_is_the_same_session_again(pair: tuple[Vm, Vm]) -> None:
    source, target = pair
    before = filled(source, "one")
    job = source.call("job.start", name="one", argv=["echo", "said"])["job"]
    source.call("job.wait", job=job)
    source.call("job.start", name="one", argv=["sleep", "1000"])
    with connect(address(source)) as here, connect(address(target)) as there:
        spool = exported(here.session("one"))
        assert source.sessions()["one"]["state"] == "ready"
        made = there.import_(spool)
        assert made.name == "one"
        shown = made.show()
        assert (shown["state"], shown["labels"], shown["env"]) == (
            *("stopped", {"task": "42"}),
            {"X": "1"},
        )
        assert target.call("policy.show", name="one")["allow"] == ["example.com"]
        assert content(target.paths.home("one")) == before
        jobs = {each.show()["argv"][0]: each for each in made.jobs()}
        assert b"".join(jobs["echo"].output()) == b"said\n"
        assert jobs["echo"].show()["status"] == 0
        assert jobs["sleep"].show()["reason"] == "its session was moved"
        made.reopen()
        assert made.run(["sh", "-c", 'chmod 600 d/g; cat d/f; echo "$X"']).stdout == b"hi\n1\n"
        # Under the same name there is none twice, and of a broken one there is nothing.
        with pytest.raises(SeraiError, match="there is a session one already"):
            there.import_(io.BytesIO(spool.getvalue()))
        for broken in (spool.getvalue()[:-20000], b"x" * 20000, b""):
            with pytest.raises(SeraiError, match=r"cannot be used|cut off"):
                there.import_(io.BytesIO(broken), "two")
        turned = bytearray(spool.getvalue())
        turned[turned.index(b"said\n")] ^= 1
        with pytest.raises(SeraiError, match="its part 'jobs' is not what its digest says"):
            there.import_(io.BytesIO(turned), "two")
        wait_for(lambda: list(target.sessions()) == ["one"])
        assert not list(target.paths.arriving.iterdir())
        made.remove()
    source.call("remove", name="one")
    wait_for(lambda: not source.sessions() and not target.sessions())
    verified(source)


def test_no_session_comes_in_with_the_doctors_label(pair: tuple[Vm, Vm]) -> None:
    source, target = pair
    source.call("create", name="one", labels={DOCTOR: ""})
    with connect(address(source)) as here, connect(address(target)) as there:
        spool = exported(here.session("one"))
        with pytest.raises(SeraiError, match=f"the label {DOCTOR} is not taken in"):
            there.import_(spool)
        here.session("one").remove()
    wait_for(lambda: not source.sessions() and not target.sessions())


def test_no_session_brings_bindings_to_secrets_unless_somebody_says_so(
    pair: tuple[Vm, Vm],
) -> None:
    """Its export says which hosts get a secret of this VM."""
    source, target = pair
    source.call("create", name="one")
    for vm in pair:
        vm.call("secret.set", name="key", value="secret-value")
    wish = {"secret": "key", "hosts": ["evil.example"], "header": "X-Key: {}"}
    source.call("policy.bind", name="one", **wish)
    with connect(address(source)) as here, connect(address(target)) as there:
        spool = exported(here.session("one"))
        with pytest.raises(SeraiError, match=r"bound to secrets of this VM, .*evil\.example"):
            there.import_(spool)
        with pytest.raises(SeraiError, match="bound to secrets of this VM"):
            here.session("one").move(there)
        wait_for(lambda: not target.sessions())
        assert source.sessions()["one"]["state"] == "ready"
        moved = here.session("one").move(there, bindings=True)
        assert target.call("policy.show", name="one")["bind"]
        moved.remove()
    wait_for(lambda: not source.sessions() and not target.sessions())
    for vm in pair:
        vm.call("secret.remove", name="key")


def test_no_session_gets_secrets_by_a_profile_unless_somebody_says_so(
    pair: tuple[Vm, Vm],
) -> None:
    """Its export names one that binds none where it comes from, or has the default one."""
    source, target = pair
    binds = '[[bind]]\nsecret = "key"\nhosts = ["bank.example"]\nheader = "X-Key: {}"\n'
    texts = {source: {"bank": ""}, target: {"bank": binds, "default": binds}}
    try:
        for vm, profiles in texts.items():
            vm.paths.profiles.mkdir(parents=True, exist_ok=True)
            for profile, text in profiles.items():
                (vm.paths.profiles / f"{profile}.toml").write_text(text)
            vm.kill_gate()
            vm.start_gate()
        source.call("create", name="one", profile="bank")
        source.call("create", name="two")
        job = source.call("job.start", name="one", argv=["sleep", "infinity"])["job"]
        with connect(address(source)) as here, connect(address(target)) as there:
            for name, profile in (("one", "bank"), ("two", "default")):
                spool = exported(here.session(name))
                with pytest.raises(SeraiError, match=rf"its profile {profile}: .*bank\.example"):
                    there.import_(spool)
            with pytest.raises(SeraiError, match="bound to secrets of this VM"):
                here.session("one").move(there)
            wait_for(lambda: not target.sessions())
            assert source.call("job.show", job=job)["state"] == "running"
            assert there.import_(exported(here.session("one")), bindings=True).show()["state"]
    finally:
        for vm, profiles in texts.items():
            for profile in profiles:
                (vm.paths.profiles / f"{profile}.toml").unlink(missing_ok=True)
            for name in vm.sessions():
                vm.call("remove", name=name)
            vm.kill_gate()
            vm.start_gate()
    wait_for(lambda: not source.sessions() and not target.sessions())


def test_the_command(pair: tuple[Vm, Vm], tmp_path: Path) -> None:
    source, target = pair
    source.call("create", name="one")
    with (tmp_path / "one.tar.zst").open("wb") as file:
        command = source.command("export", "one")
        subprocess.run(command, check=True, env=source.env, stdout=file)
    with (tmp_path / "one.tar.zst").open("rb") as file:
        assert source.serai("import", "--name", "two", stdin=file).stdout == "two\n"
    with (tmp_path / "one.tar.zst").open("rb") as file:
        done = source.serai("import", stdin=file)
        assert (done.returncode, "there is a session one already" in done.stderr) == (1, True)
    job = source.serai("start", "one", "--", "sleep", "infinity").stdout.strip()
    done = source.serai("move", "one", "--to", address(source))
    refused = f"{address(source)} does not take it: there is a session one already; give it"
    assert refused in done.stderr
    assert source.call("job.list", name="one")["jobs"][0]["state"] == "running", job
    assert source.serai("move", "two", "--to", address(target)).stdout == "two\n"
    assert source.serai("move", "one", "--to", address(target), "--name", "deux").returncode == 0
    assert {name: each["state"] for name, each in target.sessions().items()} == {
        "two": "stopped",
        "deux": "ready",
    }
    done = source.serai("move", "one", "--cancel")
    assert done.stderr.startswith("serai: there is no session one")
    for name in ("two", "deux"):
        target.call("remove", name=name)
    wait_for(lambda: not source.sessions() and not target.sessions())


class Dying:
    """A VM at whose call number ``left`` the mover dies: before it, or when it was carried out."""

    def __init__(self, end: End, left: list[int]) -> None:
        self._end, self._left, self.address = end, left, end.address

    def call(self, method: str, /, **params: Any) -> Any:
        return self._counted(lambda: self._end.call(method, **params))

    def another(self) -> Client:
        # By this thread or by the one that exports: whoever ends first hangs up.
        found: Client = self._counted(self._end.another)
        return found

    def _counted(self, does: Any) -> Any:
        self._die()
        found = does()
        self._die()
        return found

    def _die(self) -> None:
        self._left[0] -= 1
        if self._left[0] == 0:
            if threading.current_thread() is threading.main_thread():
                raise SystemExit
            raise SeraiError("it is gone", code=GONE)


def where(name: str, *vms: Vm) -> list[str]:
    """In which VMs a session is that can be used, or could be had back."""
    states = [vm.sessions().get(name, {"state": "nowhere"})["state"] for vm in vms]
    return ["" if each == "removing" else each for each in states]


def test_the_mover_dies_at_every_call(pair: tuple[Vm, Vm]) -> None:
    source, target = pair
    source.call("create", name="one")
    source.call("stop", name="one")
    with connect(address(source)) as here, connect(address(target)) as there:
        for fatal in range(1, 40):
            left = [fatal]
            with contextlib.suppress(SystemExit, SeraiError):
                moving.move(Dying(here, left), Dying(there, left), "one")
            if left[0] > 0:
                break
            # Whatever it has done, the next one goes on; or a person has it back.
            wait_for(lambda: not under_way(source, target))
            if fatal % 3 == 0 and where("one", source)[0] == "moving":
                with contextlib.suppress(SeraiError):
                    moving.cancel(here, there, "one")
            moving.move(here, there, "one")
            wait_for(lambda: where("one", source, target) == ["nowhere", "stopped"])
            moving.move(there, here, "one")
            wait_for(lambda: where("one", source, target) == ["stopped", "nowhere"])
        assert fatal > 15
        verified(source)
        verified(target)
        target.call("remove", name="one")


def under_way(source: Vm, target: Vm) -> bool:
    """Whether the target still takes what somebody sends who is gone."""
    try:
        token = source.call("move.show", name="one")["token"]
    except SeraiError:
        return False
    return bool(target.call("move.status", token=token)["stage"] == "arriving")


def test_two_movers_and_a_third_who_wants_it_back(pair: tuple[Vm, Vm]) -> None:
    source, target = pair
    ends: list[str] = []

    def mover() -> None:
        with connect(address(source)) as here, connect(address(target)) as there:
            try:
                moving.move(here, there, "one")
                ends.append("moved")
            except SeraiError as error:
                assert error.code in (BUSY, CONFLICT, GONE), error
                ends.append("not")

    for round in range(4):
        source.call("create", name="one", labels={"round": str(round)})
        threads = [threading.Thread(target=mover) for _ in range(3)]
        for each in threads:
            each.start()
        with connect(address(source)) as here, connect(address(target)) as there:
            if round % 2:
                with contextlib.suppress(SeraiError):
                    moving.cancel(here, there, "one")
            for each in threads:
                each.join()
            with contextlib.suppress(SeraiError):
                moving.move(here, there, "one")
        wait_for(lambda: sorted(where("one", source, target)) in _ONE)
        assert target.sessions()["one"]["labels"] == {"round": str(round)}
        target.call("remove", name="one")
        wait_for(lambda: not target.sessions())
    assert "moved" in ends


_ONE = (["nowhere", "ready"], ["nowhere", "stopped"])


def test_what_leaves_is_not_used_and_comes_back(pair: tuple[Vm, Vm]) -> None:
    source, target = pair
    before = filled(source, "one")
    with source.client() as late:
        put = {"name": "one", "role": "outputs", "path": "late", "stdio": "stream"}
        number = late.ask("put", put)
        started = late.message()
        assert started["method"] == "exec.started"
        # More than the pipe holds: when it is taken, the put is at work.
        data = {"exec": started["params"]["exec"], "data": "A" * (512 << 10)}
        late.wait(late.ask("exec.input", data))
        begun = source.call("move.begin", name="one", to=address(target))
        with pytest.raises(SeraiError, match="cut off"):
            late.wait(number)
    for way in ("reopen", "switch", "stop", "archive", "remove"):
        with pytest.raises(SeraiError, match=r"moving|being moved"):
            source.call(way, name="one")
    with pytest.raises(SeraiError, match="is moving"):
        source.call("set", name="one", labels={"a": "b"})
    with pytest.raises(SeraiError, match="is being moved to"):
        source.call("move.begin", name="one", to="ssh://elsewhere")
    with pytest.raises(SeraiError, match="not being moved under this token"):
        source.call("move.end", name="one", token="0" * 32, moved=True)
    with connect(address(source)) as here, connect(address(target)) as there:
        spool = io.BytesIO()
        with pytest.raises(SeraiError, match="not being moved under this token"):
            here.session("one").export(spool)
        with pytest.raises(SeraiError, match="empty file"):
            moving.take(there.another(), spool, {"token": begun["token"]})
        moving.cancel(here, there, "one")
        # Whoever was late cannot have it a second time.
        with pytest.raises(SeraiError, match="is cancelled here"):
            there.call("move.commit", token=begun["token"])
        with pytest.raises(SeraiError, match="is cancelled here"):
            moving.take(there.another(), spool, {"token": begun["token"]})
    assert source.sessions()["one"]["state"] == "ready"
    assert content(source.paths.home("one")) == before
    source.call("remove", name="one")
    wait_for(lambda: not source.sessions())


def test_the_daemon_dies_before_every_step_of_a_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VM is both ends, so that each step of either is one of the same daemon's."""
    monkeypatch.setattr("serai.runtime.library.RESTART", 0.0)  # it is dead, and stays so
    with opened() as vm:
        vm.start()
        vm.call("create", name="one")
        with vm.client() as client:
            client.exec("one", ["sh", "-c", "echo kept >file"])
        name, other, fatal = "one", "two", 0
        while True:
            fatal += 1
            assert vm.stop() == 0
            vm.start(fatal)
            with contextlib.suppress(SeraiError):
                move_to_itself(vm, name, other)
            assert vm.daemon is not None
            wait_for(lambda left=other: over(vm, left))  # type: ignore[misc]
            steps = (vm.root / "faults").read_text().split()
            if through := len(steps) < fatal:
                assert vm.daemon.poll() is None
            else:
                assert vm.daemon.wait(30) == -9
                vm.start()
                assert vm.daemon.poll() is None, f"no start after {steps[-1]}"
                whole(vm, steps[-1])
                if where(name, vm)[0] not in ("", "nowhere"):
                    move_to_itself(vm, name, other)
            wait_for(lambda left=other: list(vm.sessions()) == [left])  # type: ignore[misc]
            vm.call("reopen", name=other)
            with vm.client() as client:
                assert client.exec(other, ["cat", "file"]).stdout == b"kept\n", steps[-1]
            verified(vm)
            if through:
                break
            name, other = other, name
        assert {step.partition(":")[2] for step in steps} >= {
            *("token", "journal", "stop", "lock-home", "arrive", "stage", "become"),
            *("place-home", "left", "move-home-away", "forget"),
        }
        assert not list(vm.paths.arriving.iterdir())


def move_to_itself(vm: Vm, name: str, other: str) -> None:
    with connect(address(vm)) as end:
        moving.move(end, end, name, new_name=other)


def over(vm: Vm, left: str) -> bool:
    """Whether the move is over, to the last step of what it left behind; or the daemon is dead."""
    with contextlib.suppress(SeraiError):
        return list(vm.sessions()) == [left]
    return vm.daemon is None or vm.daemon.poll() is not None


def whole(vm: Vm, point: str) -> None:
    """After a crash: one of the two can be used, or the move goes on."""
    states = {name: each["state"] for name, each in vm.sessions().items()}
    known = {name: state for name, state in states.items() if state != "removing"}
    homes = {each.name for each in vm.paths.sessions.iterdir() if each.name != ".serai"}
    there = {name for name, state in known.items() if state != "arriving"}
    assert homes == there, (point, states)
    usable = [name for name, state in known.items() if state not in ("arriving", "moving")]
    assert len(usable) <= 1, (point, states)
    assert there, (point, states)


def test_a_reader_who_does_not_read_is_not_waited_for(pair: tuple[Vm, Vm]) -> None:
    source, _ = pair
    source.call("create", name="one")
    with source.client() as client:
        client.exec("one", ["sh", "-c", "head -c 20000000 /dev/urandom >file"])
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write) as end, source.client() as client:
        client.ask("export", {"name": "one", "stdio": "fds"}, [end.fileno()])
        wait_for(lambda: _exports(source))
    # The client has hung up: the export ends, and the session goes on.
    wait_for(lambda: not _exports(source))
    with source.client() as client:
        assert client.exec("one", ["true"]).status == 0
    # So it does if it is frozen for that when the daemon is killed.
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write) as end, source.client() as client:
        client.ask("export", {"name": "one", "stdio": "fds"}, [end.fileno()])
        frozen = source.cgroup / "one/cgroup.events"
        wait_for(lambda: "frozen 1" in frozen.read_text() and _exports(source))
        source.kill()
        source.start()
        with source.client() as another:
            assert another.exec("one", ["true"]).status == 0
    source.call("remove", name="one")
    wait_for(lambda: not source.sessions())


def _exports(vm: Vm) -> list[str]:
    assert vm.daemon is not None
    found = subprocess.run(
        ["/usr/bin/pgrep", "-P", str(vm.daemon.pid), "-f", "transfer.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()
