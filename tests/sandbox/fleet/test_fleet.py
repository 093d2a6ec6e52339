"""A fleet in which several want the same, VMs go, and one lies."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from serai.common.errors import EXISTS, NOT_FOUND, SeraiError
from serai.fleet import placing, subjects
from serai.fleet.client import BucketEntry
from serai.fleet.subjects import CLAIMS, REQUESTS
from tests.support.fleet_members import client
from tests.support.fleet_rig import Rig, shown, told
from tests.support.waiting import wait_for

GONE_STATUS = 3


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


def test_marks_of_sessions_that_have_ended_are_removed(rig: Rig) -> None:
    """With them a claim that nobody gave back, as of a session that the VM removed by itself."""
    name = rig.create("ended")
    wait_for(lambda: told(rig, name))
    rig.vms[rig.where(name)].call("remove", name=name)
    wait_for(lambda: not told(rig, name))

    async def marks() -> list[BucketEntry]:
        async with client(rig.servers) as fleet:
            entries = await fleet._entries(subjects.SESSIONS, f"*.{name}")
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
