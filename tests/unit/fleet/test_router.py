"""Which requests go to a VM, and which are for none; what a VM may say."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any, cast

import pytest

from serai.common import jsonrpc
from serai.common.errors import GONE, NOT_FOUND, SeraiError
from serai.common.jsonrpc import Request
from serai.fleet import router, subjects, way
from serai.fleet.client import Claim, FleetClient
from serai.fleet.links import Link
from serai.fleet.router import BY_ID, BY_JOB, BY_NAME, BY_STREAM, OWN, Router
from serai.fleet.way import KEPT, MOST_OUTPUT, WayToVm
from tests.unit.docs.test_reference import METHODS

NO_SESSION = {"create", "import", "import.check", "secret.set", "secret.remove"}
"""Their ``name`` is another's, or of one that is not there yet."""
WHOLE = {"gc", "pool", "subscribe", "egress", "secret.list", "audit", "audit.verify"} | NO_SESSION


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_somewhere_or_is_known_to_be_a_whole_vms(method: str) -> None:
    kind: Any = METHODS[method][0]
    fields = {field.name for field in dataclasses.fields(kind)}
    if "job" in fields:
        assert method in BY_JOB
    elif "name" in fields and method not in NO_SESSION:
        assert method in BY_NAME
    elif method in BY_ID:
        assert BY_ID[method] in fields
    elif method not in BY_STREAM | OWN:
        with pytest.raises(SeraiError, match="is not for a whole fleet"):
            router._name(Request(1, method, {}))
        assert method not in BY_NAME


class Told(FleetClient):
    """A fleet whose rows and claims are given."""

    def __init__(self, rows: dict[str, list[str]], claims: dict[str, str]) -> None:
        self.rows, self.claims = rows, claims

    async def sessions(self, name: str = "") -> list[dict[str, Any]]:
        return [{"name": name, "vm": vm} for vm in self.rows.get(name, [])]

    async def claimed(self, bucket: str, key: str) -> Claim | None:
        assert bucket == subjects.CLAIMS
        return Claim(self.claims[key], "x", 0.0) if key in self.claims else None

    async def reclaim(self, bucket: str, key: str, old: Claim, new: Claim) -> bool:
        assert (bucket, old.vm) == (subjects.CLAIMS, self.claims[key])
        self.claims[key] = new.vm
        return True


class Heard:
    """A client's connection, to which a router writes."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, text: bytes) -> None:
        self.text += text

    async def drain(self) -> None:
        pass


class Far:
    """A VM at the end of a link; ``says`` is what comes of it."""

    def __init__(self, says: bytes) -> None:
        self.says = [says, b""]
        self.sent = b""

    async def read(self) -> bytes:
        return self.says.pop(0)

    async def write(self, data: bytes) -> None:
        self.sent += data

    def passed(self, size: int) -> None:
        pass

    async def close(self) -> None:
        pass


def routed(rows: dict[str, list[str]], claims: dict[str, str]) -> tuple[Router, Heard]:
    heard = Heard()
    fleet = Told(rows, claims)
    return Router(fleet, cast("Any", None), cast("Any", heard)), heard


def test_the_claim_decides_where_a_session_is() -> None:
    async def main() -> None:
        made, _ = routed({"one": ["a", "thief"], "two": ["a", "b"], "three": ["b"]}, {"one": "a"})
        assert await made.where("one") == "a"
        with pytest.raises(SeraiError, match="a and b both have a session two"):
            await made.where("two")
        assert await made.where("three") == "b"
        with pytest.raises(SeraiError) as caught:
            await made.where("none")
        assert caught.value.code == NOT_FOUND

    asyncio.run(main())


def test_a_session_that_moved_is_found_when_its_vm_says_so() -> None:
    async def main() -> None:
        made, _ = routed({"one": ["b"], "two": ["a", "b"], "three": ["b", "c"]}, {"one": "a"})
        assert await made.strayed("one", "a") == "b"
        assert await made.where("one") == "b"  # also for others: the claim is another
        assert await made.strayed("two", "a") is None  # it still tells of it
        assert await made.strayed("three", "a") is None  # who knows

    asyncio.run(main())


@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"[]\n",
        b"{}\nnonsense",
        b'{"jsonrpc":"2.0","id":1,"result":7,"method":7}\n',
        b'{"method":"exec.output","params":{"size":-1}}\n',
        b'{"method":"exec.output","params":{"size":%d}}\n' % (MOST_OUTPUT + 1),
        b'{"method":"exec.output","params":7}\n',
        b'{"method":"exec.started"}\n',
        b'{"id":1,"error":7}\n',
        b'{"id":1}\n',
        b'{"id":[],"result":{}}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\n",
    ],
)
def test_nothing_that_a_vm_says_leaves_a_request_without_an_answer(said: bytes) -> None:
    async def main() -> None:
        made, heard = routed({}, {})
        way = WayToVm(made, "a", cast("Link", Far(said)))
        await way.send(Request(1, "exec", {"name": "one"}), {"name": "one"}, "one")
        await asyncio.wait_for(way.run(), 5)
        answers = [line for line in heard.text.splitlines() if b'"id":1' in line]
        assert len(answers) == 1
        assert "error" in json.loads(answers[0])

    asyncio.run(main())


def test_ids_that_a_vm_makes_up_are_told_apart() -> None:
    async def main() -> None:
        said = b'{"method":"exec.started","params":{"request":1,"exec":"7","pid":1}}\n'
        said += b'{"method":"exec.output","params":{"exec":"7","stream":"stdout","size":3}}\na\nb'
        said += b'{"jsonrpc":"2.0","id":1,"result":{"status":0}}\n'
        made, heard = routed({}, {})
        way = WayToVm(made, "a", cast("Link", Far(said)))
        await way.send(Request(1, "exec", {"name": "one"}), {"name": "one"}, "one")
        await asyncio.wait_for(way.run(), 5)
        assert heard.text.count(b'"exec":"a:7"') == 2
        assert b"}}\na\nb{" in heard.text

    asyncio.run(main())


@pytest.mark.parametrize(
    "said",
    [
        # A request or a stream that is another VM's.
        {"method": "exec.started", "params": {"request": 2, "exec": "7", "pid": 1}},
        {"method": "exec.output", "params": {"exec": "7", "stream": "stdout", "data": "AA=="}},
        {"method": "forward.closed", "params": {"forward": "7", "reason": ""}},
        {"method": "forward.data", "params": {"stream": 1, "data": "AA==", "eof": False}},
        {"method": "forward.taken", "params": {"stream": 1, "bytes": 1}},
        {"method": "forward.ended", "params": {"stream": 1, "reset": True}},
        # What nobody has asked this VM for, and answers to what another was asked.
        {"method": "session.changed", "params": {"name": "one", "state": "ready"}},
        {"jsonrpc": "2.0", "method": "x", "params": {}, "id": 2, "result": {}},
        {"jsonrpc": "2.0", "id": 2, "result": {}},
    ],
)
def test_no_vm_speaks_for_another(said: dict[str, Any]) -> None:
    """What a client sends for one VM's session would go to the other one."""

    async def main() -> None:
        made, heard = routed({}, {})
        made._streams[1] = "b"
        honest = WayToVm(made, "b", cast("Link", Far(b"")))
        await honest.send(Request(2, "exec", {"name": "two"}), {"name": "two"}, "two")
        hostile = WayToVm(made, "a", cast("Link", Far(json.dumps(said).encode() + b"\n")))
        await asyncio.wait_for(hostile.run(), 5)
        assert heard.text == b""
        assert made._streams == {1: "b"}

    asyncio.run(main())


def test_a_notification_is_no_answer_to_boot() -> None:
    async def main() -> None:
        said = b'{"method":"exec.started","params":{"exec":"7","request":1},"id":2,"result":{}}\n'
        said += b'{"id":3,"id":1,"result":{},"error":null}\n'
        made, heard = routed({}, {})
        way = WayToVm(made, "a", cast("Link", Far(said)))
        await way.send(Request(1, "put", {"name": "one"}), {"name": "one"}, "one")
        await asyncio.wait_for(way.run(), 5)
        lines = heard.text.splitlines()
        assert b'"id"' not in lines[0]
        assert len(lines) == 2
        assert b'"id":3' not in lines[1]

    asyncio.run(main())


def test_a_line_that_is_read_again_and_again_is_short() -> None:
    """Until its output has come, whose bytes may come one by one."""

    async def main() -> None:
        made, heard = routed({}, {})
        news = {"exec": "7", "stream": "stdout", "size": 9, "more": "x" * KEPT}
        said = json.dumps({"method": "exec.output", "params": news}).encode() + b"\n"
        way = WayToVm(made, "a", cast("Link", Far(said)))
        await way.send(Request(1, "exec", {"name": "one"}), {"name": "one"}, "one")
        await asyncio.wait_for(way.run(), 5)
        assert "says what makes no sense" in heard.text.decode()

    asyncio.run(main())


class Hanging(Told):
    """Of its VMs ``slow`` takes no link, and ``full`` nothing by it."""

    async def link(self, vm: str) -> Link:
        if vm == "slow":
            await asyncio.Event().wait()
        return cast("Link", Full() if vm == "full" else HangsUp())


class Full(Far):
    def __init__(self) -> None:
        super().__init__(b"")
        self.over = asyncio.Event()

    async def read(self) -> bytes:
        await self.over.wait()
        return b""

    async def write(self, data: bytes) -> None:
        await self.over.wait()
        await super().write(data)

    def cut(self, why: str) -> None:
        assert why
        self.over.set()


class HangsUp(Full):
    async def write(self, data: bytes) -> None:
        self.over.set()
        await super().write(data)


def test_a_vm_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "STUCK", 0.05)

    async def main() -> None:
        heard = Heard()
        fleet = Hanging({}, {vm: vm for vm in ("slow", "full", "a")})
        made = Router(fleet, cast("Any", None), cast("Any", heard))

        async def take(number: int, name: str) -> None:
            await asyncio.wait_for(made._take(jsonrpc.call(number, "show", {"name": name})), 5)

        for number, name in enumerate(("slow", "slow", "full", "full", "a")):
            await take(number, name)
            await asyncio.sleep(0)
        while len(answers := heard.text.splitlines()) < 3:
            await asyncio.sleep(0)
        answered = [json.loads(each) for each in answers]
        assert {each["id"]: each["error"]["code"] for each in answered} == {
            2: GONE,
            3: GONE,
            4: GONE,
        }
        for task in [*made._tasks, *made._ways.values()]:
            task.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
