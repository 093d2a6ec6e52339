"""A fleet as people and programs use it, by the command and by the library."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from serai.common.errors import NO_ROOM, SeraiError
from serai.runtime.client import Client
from tests.support.fake_vm import CHECKOUT, DEADLINE
from tests.support.fleet_rig import CODE, Rig, told
from tests.support.waiting import wait_for


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
