"""A fleet of two VMs with real sessions at a real server, by the command and by the library."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from serai import connect
from serai.common.errors import EXISTS, NO_ROOM, NOT_FOUND, SeraiError
from serai.fleet import command, placing, subjects
from serai.fleet.client import BucketEntry
from serai.fleet.subjects import CLAIMS, REQUESTS
from serai.runtime.client import Client
from serai.runtime.library import Vm as Library
from tests.support import nats_servers
from tests.support.fake_vm import CHECKOUT, DEADLINE, Vm, opened
from tests.support.fleet_members import answers, client, prepare, prepared, started
from tests.support.nats_servers import Servers
from tests.support.waiting import wait_for

QUICK = 0.5
"""Seconds between signs of life, here."""
GONE_STATUS = 3
CODE = "import sys; from serai.runtime.cli.main import script; sys.exit(script())"


@dataclass
class Rig:
    """Two VMs, each with its member."""

    servers: Servers
    vms: dict[str, Vm]
    members: dict[str, subprocess.Popen[bytes]]
    stack: ExitStack

    @cached_property
    def fleet(self) -> Library:
        """A connection for what is no test's subject: a command costs a quarter of a second."""
        return self.stack.enter_context(self.connect())

    def create(self, name: str | None = None, zone: str = "") -> str:
        labels = {"fleet.zone": f"{zone}-side"} if zone else {}
        return self.fleet.create(name, labels=labels).name

    def remove(self, *names: str) -> None:
        for name in names:
            self.fleet.call("remove", name=name)

    def kill(self, vm: str) -> None:
        self.members[vm].kill()
        self.members[vm].wait()

    def start(self, vm: str) -> None:
        self.members[vm] = self.stack.enter_context(started(self.vms[vm].root, QUICK))

    def serai(self, *arguments: str, vm: str = "", **options: Any) -> str:
        """What the command says; it must succeed."""
        done = self.run(*arguments, vm=vm, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self, *arguments: str, vm: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        address = self.servers.address + (vm and f"/{vm}")
        env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/src", "SERAI_VM": address}
        options = {"stdin": subprocess.DEVNULL, **options}
        return subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 2,
            **options,
        )

    def connect(self, vm: str = "") -> Library:
        return connect(self.servers.address + (vm and f"/{vm}"))

    def where(self, name: str) -> str:
        """The VM that really has a session."""
        (found,) = (vm for vm, each in self.vms.items() if name in each.sessions())
        return found


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        servers = stack.enter_context(nats_servers.cluster(folder, 1, ["a", "b", "thief"]))
        patch.setenv("SERAI_FLEET", str(folder / "clients/alice"))
        patch.setitem(command.LIVES, subjects.ALIVE, QUICK * 10)
        asyncio.run(prepared(servers))
        made = Rig(servers, {}, {}, stack)
        for name in ("a", "b"):
            vm = made.vms[name] = stack.enter_context(opened())
            vm.start()
            prepare(servers, name, vm.root, f'[labels]\nzone = "{name}-side"\n')
            plenty(vm.root / "proc")
            made.start(name)
        for name in made.vms:
            answers(servers, name)
        wait_for(lambda: shown(made).count("up") == 2 and not any(problems(made)))
        yield made


def plenty(proc: Path) -> None:
    """What a VM with room says: the host of the tests may have little."""
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "loadavg").write_text("0.1 0.1 0.1 1/100 100\n")
    (proc / "sys/kernel/pid_max").write_text("30000\n")


def vms(rig: Rig) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        async with client(rig.servers) as fleet:
            return await command.shown(fleet)

    return asyncio.run(ask())


def shown(rig: Rig) -> list[str]:
    return [each["state"] for each in vms(rig)]


def problems(rig: Rig) -> list[str]:
    return [each["problem"] for each in vms(rig)]


def told(rig: Rig, name: str) -> list[dict[str, Any]]:
    """The rows of a session's name."""

    async def ask() -> list[dict[str, Any]]:
        async with client(rig.servers) as fleet:
            return await fleet.sessions(name)

    return asyncio.run(ask())


def test_a_session_from_its_making_to_its_end(rig: Rig) -> None:
    name = rig.serai("create", "--label", "team=a").strip()
    vm = rig.where(name)
    wait_for(lambda: told(rig, name))
    assert name in rig.serai("list", "--label", "team=a")
    done = rig.run("exec", name, "--", "sh", "-c", "cat; exit 3", stdin=None, input="in")
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "")
    assert f'"vm": "{vm}"' in rig.serai("show", "--json", name)
    job = rig.serai("start", name, "--", "echo", "done").strip()
    assert rig.serai("logs", "--follow", job) == "done\n"
    rig.serai("remove", name)
    wait_for(lambda: name not in rig.serai("list"))


def test_the_library_uses_many_vms_by_one_connection(rig: Rig) -> None:
    with rig.connect() as fleet:
        sessions = [fleet.create() for _ in range(8)]
        assert {rig.where(each.name) for each in sessions} == {"a", "b"}
        for each in sessions:
            assert each.run(["cat"], input=each.name.encode()).stdout == each.name.encode()
        here, there = (next(s for s in sessions if rig.where(s.name) == vm) for vm in ("a", "b"))
        two_at_once(fleet.client(), here.name, there.name)
        command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"]
        here.start(command)
        with here.forward(3000) as url:
            wait_for(lambda: reached(url))
        here.files.write("outputs/f", b"1")
        assert here.files.read("outputs/f") == b"1"
        for each in sessions:
            each.remove()


def two_at_once(client: Client, *names: str) -> None:
    """Commands of two VMs on one connection, which may both call theirs the same."""
    asked = {client.ask("exec", {"name": n, "argv": ["cat"], "stdio": "bytes"}): n for n in names}
    ids: dict[str, str] = {}
    said: dict[str, bytes] = {}
    ended: set[str] = set()
    while len(ended) < len(names):
        message = client.message()
        news = message.get("params", {})
        if message.get("method") == "exec.started":
            name = ids[news["exec"]] = asked[news["request"]]
            text = base64.b64encode(name.encode()).decode()
            client.ask("exec.input", {"exec": news["exec"], "data": text, "eof": True})
        elif message.get("method") == "exec.output":
            said[ids[news["exec"]]] = news["data"]
        elif message["id"] in asked:
            ended.add(asked[message["id"]])
    assert len(ids) == len(names)
    assert said == {name: name.encode() for name in names}


def reached(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE):  # noqa: S310  # ours
            return True
    except OSError:
        return False


def test_a_client_that_does_not_read_takes_little_and_holds_up_nobody(rig: Rig) -> None:
    def held(pid: int) -> int:
        (line,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(line) << 10

    with rig.connect() as fleet:
        session = fleet.create()
        member = rig.members[rig.where(session.name)].pid
        with session.stream(["true"]) as process:  # the way is open
            assert process.wait().status == 0
        before = held(member)
        with session.stream(["cat", "/dev/zero"]) as process:
            helper = process._client._child  # type: ignore[attr-defined]
            next(iter(process))
            first = held(helper.pid)
            for _ in range(20):
                assert session.run(["echo", "1"]).stdout == b"1\n"
            assert held(helper.pid) - first < 8 << 20
            assert held(member) - before < 8 << 20
        session.remove()


def test_what_is_for_one_vm_says_how_to_name_it(rig: Rig) -> None:
    done = rig.run("gc")
    assert done.returncode == 1
    assert done.stderr == "serai: 'gc' is not for a whole fleet; name one of its VMs: nats://…/VM\n"
    assert rig.run("gc", "--dry-run", vm="a").returncode == 0
    assert rig.run("show", "nobody").stderr.startswith("serai: there is no session nobody")
    assert "the VM c is gone" in rig.run("list", vm="c").stderr
    name = rig.create()
    done = rig.run("move", name, "--to", rig.servers.address)
    assert "is a whole fleet, and no VM to move to; name one of its VMs: nats://" in done.stderr
    rig.remove(name)


def test_a_person_sees_where_sessions_are_and_what_was_not_known(rig: Rig) -> None:
    name = rig.create(zone="b")
    wait_for(lambda: told(rig, name))
    head, *rows = rig.serai("list").splitlines()
    assert head.split() == ["NAME", "STATE", "VM", "CREATED", "LABELS"]
    assert [name, "ready", "b"] in [row.split()[:3] for row in rows]
    assert "VM" not in rig.serai("list", vm="b").split()
    rig.remove(name)
    done = rig.run("fleet", "forget", "nowhere")
    assert (done.returncode, done.stderr) == (0, "serai: nothing was known of nowhere\n")
    assert "choose from 1, 3, 5" in rig.run("fleet", "init", "--replicas", "0").stderr


def test_a_request_that_many_make_is_carried_out_once(rig: Rig) -> None:
    request = uuid.uuid4().hex

    def create(_: int) -> str:
        with rig.connect() as fleet:
            return fleet.create(request_id=request, labels={"once": "1"}).name

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(create, range(8)))
    (name,) = names
    made = [each for vm in rig.vms.values() for each in vm.sessions().values()]
    assert [each["name"] for each in made if each["labels"] == {"once": "1"}] == [name]
    rig.remove(name)


def test_of_many_who_want_a_name_one_gets_it(rig: Rig) -> None:
    def create(_: int) -> bool:
        with rig.connect() as fleet:
            try:
                fleet.create("wanted")
            except SeraiError as error:
                assert error.code == EXISTS
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, range(8))).count(True) == 1
    assert rig.where("wanted")
    rig.remove("wanted")
    wait_for(lambda: not told(rig, "wanted"))
    assert rig.create("wanted") == "wanted"  # its name is free again
    rig.remove("wanted")


def test_labels_constrain_where_it_goes(rig: Rig) -> None:
    for vm in ("a", "b"):
        name = rig.create(zone=vm)
        assert rig.where(name) == vm
        rig.remove(name)
    done = rig.run("create", "--label", "fleet.zone=nowhere")
    assert done.stderr.startswith("serai: no VM with fleet.zone=nowhere has room; ")


def test_a_vm_that_drains_gets_no_new_session(rig: Rig) -> None:
    assert json.loads(rig.serai("fleet", "drain", "a", "--json"))["draining"]
    assert "draining" in rig.serai("fleet")
    try:
        names = [rig.create() for _ in range(4)]
        assert {rig.where(name) for name in names} == {"b"}
        with rig.connect() as fleet, pytest.raises(SeraiError) as caught:
            fleet.create(labels={"fleet.zone": "a-side"})
        assert caught.value.code == NO_ROOM
    finally:
        rig.serai("fleet", "undrain", "a")
    assert "draining" not in rig.serai("fleet")
    name = rig.create(zone="a")
    rig.remove(*names, name)


def test_a_vm_is_emptied(rig: Rig) -> None:
    name = rig.create("moves", "a")
    other = rig.create(zone="a")
    rig.serai("exec", name, "--", "sh", "-c", "echo kept > kept")
    rig.serai("set", name, "--label", "fleet.zone=b-side")
    # A third one has begun to move, by somebody who died: it goes where it began to go.
    begun = rig.create("begun", "a")
    with rig.connect("a") as vm:
        vm.call("move.begin", name=begun, to=f"{rig.servers.address}/b")
    try:
        done = rig.run("fleet", "drain", "a", "--move")
        assert done.returncode == 1  # the other one may be nowhere else
        assert f"{name} is on b\n" in done.stderr
        assert f"{other} stays: no VM with fleet.zone=a-side has room" in done.stderr
        assert (rig.where(name), rig.where(other), rig.where(begun)) == ("b", "a", "b")
        assert rig.serai("exec", name, "--", "cat", "kept") == "kept\n"
    finally:
        rig.serai("fleet", "undrain", "a")
    rig.remove(name, other, begun)


def test_marks_of_sessions_that_have_ended_are_removed(rig: Rig) -> None:
    """With them a claim that nobody gave back, as of a session that the VM removed by itself."""
    name = rig.create("ended")
    wait_for(lambda: told(rig, name))
    rig.vms[rig.where(name)].call("remove", name=name)
    wait_for(lambda: not told(rig, name))

    async def marks() -> list[BucketEntry]:
        async with client(rig.servers) as fleet:
            entries = await fleet._entries(subjects.SESSIONS, ">")
            return [each for each in entries if each.ended]

    async def tidy() -> bool:
        async with client(rig.servers) as fleet:
            assert await fleet.claimed(CLAIMS, name) is not None
            await fleet.tidy(await marks())
            assert await fleet.claimed(CLAIMS, name) is not None  # it is too young
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("serai.fleet.client.OLD", 0.0)
                await fleet.tidy(await marks())
            return await fleet.claimed(CLAIMS, name) is None

    assert asyncio.run(marks())
    assert asyncio.run(tidy())
    assert asyncio.run(marks()) == []


def test_a_claim_decides_and_no_row_of_another_vm_does(rig: Rig) -> None:
    """A stolen VM says that it has a session of everybody's: no byte goes there."""
    name = rig.create()

    async def lie(called: str) -> None:
        thief = await rig.servers.connect("vm", "thief")
        row = b'{"state": "ready", "labels": 7, "created_at": "x"}'
        await thief.publish(f"$KV.serai_sessions.thief.{called}", row)
        await thief.flush()
        await thief.close()

    def believed(called: str) -> bool:
        return any(each["vm"] == "thief" for each in told(rig, called))

    asyncio.run(lie(name))
    wait_for(lambda: believed(name))
    with rig.connect() as fleet:
        assert fleet.session(name).run(["echo", "here"]).stdout == b"here\n"
    # One that a VM made by itself has no claim: then nobody is believed.
    rig.vms["a"].call("create", name="local")
    wait_for(lambda: told(rig, "local"))
    asyncio.run(lie("local"))
    wait_for(lambda: believed("local"))
    done = rig.run("exec", "local", "--", "true")
    assert "a and thief both have a session local; name one VM: nats://…/a" in done.stderr
    assert rig.serai("exec", "local", "--", "echo", "1", vm="a") == "1\n"
    listed = rig.serai("list")
    assert listed.count("gone") == 2  # the thief's two, who is not alive
    rig.serai("fleet", "forget", "thief")
    assert "gone" not in rig.serai("list")
    assert rig.serai("exec", "local", "--", "echo", "1") == "1\n"
    rig.remove(name, "local")


def test_a_client_that_died_between_claim_and_create_does_no_harm(rig: Rig) -> None:
    """Its claim of a name keeps others out for a minute. With its request ID it goes on."""
    request = uuid.uuid4().hex
    here, there = ({"fleet.zone": f"{vm}-side"} for vm in ("a", "b"))

    async def die() -> None:
        async def call(*_: object) -> Any:
            raise asyncio.CancelledError

        async def reach(_: str) -> None:
            pass

        async with client(rig.servers) as fleet:
            with pytest.raises(asyncio.CancelledError):
                made = placing.Placing(fleet, call, reach)
                await made.create({"name": "half", "request_id": request, "labels": here})

    async def age() -> None:
        async with client(rig.servers) as fleet:
            claim = await fleet.claimed(CLAIMS, "half")
            assert claim is not None
            assert await fleet.reclaim(CLAIMS, "half", claim, replace(claim, at=claim.at - 100))

    asyncio.run(die())
    with rig.connect() as fleet:
        with pytest.raises(SeraiError, match="the session half exists, on a"):
            fleet.create("half", labels=there)
        assert fleet.create("half", request_id=request, labels=here).name == "half"
        assert rig.where("half") == "a"
        fleet.session("half").remove()
        wait_for(lambda: "half" not in rig.vms["a"].sessions())
        request = uuid.uuid4().hex
        asyncio.run(die())
        asyncio.run(age())
        assert fleet.create("half", labels=there).name == "half"
        assert rig.where("half") == "b"
        with pytest.raises(SeraiError, match="the session half exists, on b"):
            fleet.create("half", request_id=request, labels=here)
        fleet.session("half").remove()


def test_a_vm_that_is_gone_and_comes_back(rig: Rig) -> None:
    name = rig.create(zone="b")
    wait_for(lambda: told(rig, name))
    request = uuid.uuid4().hex

    async def claim() -> None:
        async with client(rig.servers) as fleet:
            key = hashlib.sha256(request.encode()).hexdigest()
            await fleet.claim(REQUESTS, key, "b", "somebody")

    asyncio.run(claim())
    rig.vms["b"].call("create", name="made-in-b")
    wait_for(lambda: told(rig, "made-in-b"))
    rig.kill("b")
    wait_for(lambda: "gone" in shown(rig))
    assert f"{name} " in rig.serai("list") and "gone" in rig.serai("list")
    done = rig.run("exec", name, "--", "true")
    assert "the VM b is gone" in done.stderr
    done = rig.run("create", "--request-id", request)  # it was given to b
    assert done.returncode == GONE_STATUS
    assert "the VM b is gone; ask again with the same request ID when b is back" in done.stderr
    taken = "made-in-b exists, on b, and the VM b is gone"
    with rig.connect() as fleet, pytest.raises(SeraiError, match=taken):
        fleet.create("made-in-b")
    rig.start("b")
    wait_for(lambda: "gone" not in shown(rig))
    assert rig.serai("exec", name, "--", "echo", "back") == "back\n"
    with rig.connect() as fleet:
        made = fleet.create(request_id=request).name
        assert rig.where(made) == "b"
    rig.remove(name, made, "made-in-b")


def test_a_session_that_was_removed_meanwhile_is_no_longer_told(rig: Rig) -> None:
    """What happens while the member is not there, it tells when it is back."""
    rig.vms["a"].call("create", name="stays")
    rig.vms["a"].call("create", name="goes")
    wait_for(lambda: told(rig, "goes") and told(rig, "stays"))
    rig.kill("a")
    rig.vms["a"].call("remove", name="goes")
    rig.start("a")
    wait_for(lambda: not told(rig, "goes"))
    assert told(rig, "stays")
    with rig.connect("a") as vm, pytest.raises(SeraiError) as caught:
        vm.session("goes")
    assert caught.value.code == NOT_FOUND


def test_modules_of_the_working_directory_are_not_the_fleets(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats/__init__.py").write_text("raise SystemExit('stolen')")
    (tmp_path / "serai.py").write_text("raise SystemExit('stolen')")
    # -I: the command itself trusts its working directory no more than pip's would.
    env = {**os.environ, "SERAI_VM": rig.servers.address}
    path = [f"{CHECKOUT}/src", *(each for each in sys.path if "site-packages" in each)]
    code = f"import sys; sys.path[:0] = {path!r}; {CODE}"
    argv = [sys.executable, "-Ic", code, "list"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


LOADS: list[Any] = [-1, "0", None, [], 1e400]
OFFERS: list[Any] = [
    *({"vm": vm, "load": 0, "full": False} for vm in ("b", "../a", "a.b", ">", "", 7, None)),
    *({"vm": "thief", "load": load, "full": False} for load in LOADS),
    *({"vm": "thief", "load": 0, "full": full} for full in (True, None, "no")),
    *([], 7, "thief", None),
]


def test_a_lying_offer_gets_no_session_for_another_vm(rig: Rig) -> None:
    """A stolen VM answers each request for a place with nonsense, or in another VM's name."""

    async def lie() -> list[str]:
        thief = await rig.servers.connect("vm", "thief")
        lies = itertools.cycle(OFFERS)

        async def answer(message: Any) -> None:
            await thief.publish(message.reply, json.dumps(next(lies)).encode())

        await thief.subscribe("serai.place.any.any.any", queue=subjects.QUEUE, cb=answer)
        await thief.flush()
        done = await asyncio.to_thread(lambda: [rig.run("create") for _ in range(6)])
        await thief.close()
        # If the thief alone is asked, and asked again, nobody has room.
        assert all("has room" in each.stderr for each in done if each.returncode)
        return [each.stdout.strip() for each in done if not each.returncode]

    made = asyncio.run(lie())
    assert made
    assert len(set(made)) == len(made)
    assert {rig.where(name) for name in made} <= {"a", "b"}
    rig.remove(*made)
