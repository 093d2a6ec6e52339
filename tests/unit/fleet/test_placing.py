"""Placing by three offers: how even it is, and what an offer may be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import EXISTS, GONE, NO_ROOM, NOT_FOUND, TIMEOUT, SeraiError
from serai.fleet import placing, room, subjects
from serai.fleet.client import Claim, FleetClient
from serai.fleet.placing import Placing, chosen
from serai.fleet.room import Occupancy
from serai.fleet.subjects import ANY, place, places, token


class Vms:
    """Equal VMs that place sessions as members do; a create takes some time to be counted."""

    def __init__(self, number: int, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.vms = {
            f"vm-{at}": Occupancy(1000, Path("/"), lambda: self.now) for at in range(number)
        }
        self.made: Counter[str] = Counter()
        self.coming: list[tuple[float, str]] = []

    def offer(self) -> dict[str, Any]:
        name = self.random.choice(list(self.vms))
        vm = self.vms[name]
        said = {"vm": name, "load": vm.load, "ready": 0, "full": False}
        vm.offered()
        return said

    def create(self, every: float, takes: float) -> None:
        self.now += every
        while self.coming and self.coming[0][0] <= self.now:
            _, name = self.coming.pop(0)
            self.vms[name].sessions += 1
        taken = chosen([self.offer() for _ in range(subjects.OFFERS)])
        assert taken is not None
        self.made[taken] += 1
        self.coming.append((self.now + takes, taken))


@pytest.mark.parametrize("number", [3, 20, 100])
@pytest.mark.parametrize("every", [0.02, 0.2])  # also 25 creates at once: 0.5 s until counted
def test_equal_vms_are_loaded_within_ten_percent(number: int, every: float) -> None:
    vms = Vms(number, seed=21)
    for _ in range(100 * number):
        vms.create(every, takes=0.5)
    assert max(vms.made.values()) <= 110
    assert min(vms.made[name] for name in vms.vms) >= 90


@pytest.mark.parametrize(
    ("offers", "vm"),
    [
        ([], None),
        ([{"vm": "a", "load": 0.5, "full": True}], None),
        ([{"vm": "a", "load": 0.5, "full": False}, {"vm": "b", "load": 0.4, "full": False}], "b"),
        ([{"vm": "a", "load": 0.1, "full": True}, {"vm": "b", "load": 0.4, "full": False}], "b"),
        (
            [
                {"vm": "a", "load": 0, "full": False, "ready": 0},
                {"vm": "b", "load": 0, "full": False, "ready": 3},
            ],
            "b",
        ),
        ([{"vm": "a", "load": -1, "full": False}, {"vm": "b", "load": 9, "full": False}], "b"),
        ([{"vm": "a", "load": float("nan"), "full": False}], None),
        ([{"vm": "a", "load": 10**400, "full": False, "ready": 10**400}], None),
        ([{"vm": "a", "load": "0", "full": False}, {"vm": "b", "full": 0}], None),
    ],
)
def test_the_better_offer_is_taken(offers: list[dict[str, Any]], vm: str | None) -> None:
    assert chosen(offers) == vm


def test_a_label_is_one_token_of_a_subject() -> None:
    texts = ["", "any", "=any", "a.b", "a b", "*", ">", "ä", "debian-12-amd64/2026.11", "=2e="]
    made = [token(text) for text in texts]
    assert made[0] == ANY
    assert len(set(made)) == len(texts)
    assert not any(set(each) & set(" .*>\t\r\n") for each in made)


def test_a_member_answers_each_label_and_any() -> None:
    answers = set(places("north", "x86_64", "i/1"))
    assert len(answers) == 8
    assert place("", "", "") in answers
    assert place("north", "", "i/1") in answers
    assert place("south", "", "") not in answers
    assert len(places("", "x86_64", "")) == 2


def test_what_there_is_no_room_of(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "sessions").mkdir()

    def full(most: int = 0, sessions: int = 0, free: int = 5000, tasks: int = 100) -> str:
        memory = f"MemTotal:       10000 kB\nMemFree: 1 kB\nMemAvailable:  {free} kB\n"
        (tmp_path / "proc/meminfo").write_text(memory)
        (tmp_path / "proc/loadavg").write_text(f"0.1 0.1 0.1 1/{tasks} 4242\n")
        (tmp_path / "proc/sys/kernel/pid_max").write_text("1000\n")
        found = Occupancy(most, tmp_path, lambda: 0.0)
        found.sessions = sessions
        return found.full

    assert full() == ""
    assert full(free=900) == "there is little memory"
    assert full(tasks=950) == "there are too many tasks"
    assert full(most=3, sessions=3) == "it has 3 sessions, and may have 3"
    assert room.memory(tmp_path) == (10000 << 10, 5000 << 10)


class FleetOfOne(FleetClient):
    """A fleet of which the VM ``a`` answers; ``rows`` are the VMs that tell of each name."""

    def __init__(self, rows: dict[str, list[str]]) -> None:
        self.rows = rows
        self.claims: dict[str, Claim] = {}

    async def offers(self, *_: str) -> list[dict[str, Any]]:
        return [{"vm": "a", "load": 0, "full": False}]

    async def sessions(self, name: str = "") -> list[dict[str, Any]]:
        return [{"name": name, "vm": vm} for vm in self.rows.get(name, [])]

    async def claimed(self, bucket: str, key: str) -> Claim | None:
        return self.claims.get(bucket + key)

    async def claim(self, bucket: str, key: str, vm: str, by: str) -> Claim:
        return self.claims.setdefault(bucket + key, Claim(vm, by, time.time()))

    async def reclaim(self, bucket: str, key: str, old: Claim, new: Claim) -> bool:
        assert self.claims[bucket + key] == old
        self.claims[bucket + key] = new
        return True

    async def give_back(self, bucket: str, key: str, claim: Claim) -> None:
        assert self.claims.pop(bucket + key) == claim


@pytest.mark.parametrize(
    "made",
    [
        *([], None, 7, {}, {"name": None}, {"name": []}, {"name": "Two Words"}, {"name": "a\n"}),
        *({"name": "x" * 32}, {"name": "root"}, {"name": "one"}, {"name": "local"}),
        *({"name": ">"}, {"name": "a\r\nPUB $JS.API.STREAM.DELETE.KV_serai_claims 0\r\n\r\n"}),
    ],
)
@pytest.mark.parametrize("name", [None, "wanted"])
def test_what_a_vm_says_that_it_has_made(made: Any, name: str | None) -> None:
    """Not the name of another VM's session, be it one that nobody has claimed."""

    async def main() -> None:
        fleet = FleetOfOne({"local": ["a", "b"]})
        fleet.claims[subjects.CLAIMS + "one"] = Claim("b", "x", time.time())

        async def call(vm: str, method: str, params: dict[str, Any]) -> Any:
            return made if method == "create" else {}

        async def reach(vm: str) -> None:
            pass

        with pytest.raises(SeraiError):
            await Placing(fleet, call, reach).create({"name": name} if name else {})
        assert fleet.claims[subjects.CLAIMS + "one"].vm == "b"
        assert subjects.CLAIMS + "local" not in fleet.claims

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (GONE, "the session local exists, on b, and the VM b is gone; take another name"),
        (TIMEOUT, "the session local exists, on b, and b does not answer"),
        (EXISTS, "the session local exists, on b"),
        (NOT_FOUND, ""),
    ],
)
def test_a_name_that_nobody_claimed_is_free_only_if_its_vm_says_so(
    code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``b`` tells of a session that was made in it. Its row may be old: it was just removed."""
    monkeypatch.setattr(placing, "ANSWER", 0.01)

    async def call(vm: str, method: str, params: dict[str, Any]) -> Any:
        if vm == "a":
            return {"name": "local"}
        assert (vm, method) == ("b", "show")
        if code == TIMEOUT:
            await asyncio.Event().wait()
        if code == EXISTS:
            return {}
        raise SeraiError("the VM b is gone", code=code)

    async def reach(vm: str) -> None:
        pass

    async def main() -> str:
        fleet = FleetOfOne({"local": ["b"]})
        try:
            made = await Placing(fleet, call, reach).create({"name": "local"})
        except SeraiError as error:
            assert error.code == EXISTS
            assert subjects.CLAIMS + "local" not in fleet.claims
            return str(error)
        assert made["vm"] == fleet.claims[subjects.CLAIMS + "local"].vm == "a"
        return ""

    found = asyncio.run(main())
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(("code", "kept"), [(EXISTS, True), (NO_ROOM, False), (GONE, True)])
def test_a_claim_of_a_name_stays_while_there_may_be_such_a_session(code: int, kept: bool) -> None:
    """Of two requests for a name that go to the same VM, one has the claim, and the other wins."""

    async def call(vm: str, method: str, params: dict[str, Any]) -> Any:
        raise SeraiError("it is not made", code=code)

    async def reach(vm: str) -> None:
        pass

    async def main() -> None:
        fleet = FleetOfOne({})
        with pytest.raises(SeraiError):
            await Placing(fleet, call, reach).create({"name": "one"})
        assert (subjects.CLAIMS + "one" in fleet.claims) is kept

    asyncio.run(main())


def test_a_claim_follows_only_the_vm_that_has_it() -> None:
    """A VM that is emptied names its sessions as it likes: also as another one's."""

    async def main() -> None:
        fleet = FleetOfOne({"local": ["thief", "b", "c"], "new": ["thief", "c"]})
        fleet.claims = {
            subjects.CLAIMS + name: Claim(vm, "x", 0.0)
            for name, vm in (("one", "b"), ("own", "thief"))
        }
        for name in ("one", "local", "*", None):
            with pytest.raises(SeraiError):
                await placing.follow(fleet, cast("str", name), "thief", "c")
        for name in ("own", "new"):
            await placing.follow(fleet, name, "thief", "c")
        claims = {key[len(subjects.CLAIMS) :]: each.vm for key, each in fleet.claims.items()}
        assert claims == {"one": "b", "own": "c", "new": "c"}

    asyncio.run(main())
