"""What a stolen VM may tell of itself, and that a client can still show it, and go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.fleet import client, command
from serai.fleet.client import FleetClient
from serai.runtime.cli.showing import when

ODD = ["NaN", "Infinity", "-1", "1" + "0" * 400, '"x"', "[]", '{"a": 1}', "null", "true", "1e300"]


@pytest.mark.parametrize("odd", ODD)
def test_a_row_can_be_shown(odd: str) -> None:
    keys = ("uid", "state", "goal", "created_at", "changed_at")
    row = json.loads("{" + "".join(f'"{key}": {odd}, ' for key in keys) + f'"labels": {odd}}}')
    found = client._session(row)
    assert when(found["created_at"])
    assert sorted([found["created_at"], 0])
    assert 0 <= found["uid"] <= client.LARGEST
    assert isinstance(found["state"], str)
    assert client._session({"labels": {"a": json.loads("[" * 900 + "]" * 900)}})["labels"] == {}


class Telling(FleetClient):
    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.connection = cast("Any", self)

    async def all_servers(self, *_: object) -> list[bytes]:
        return []

    async def asked(self, *_: object) -> dict[str, Any]:
        return self.said

    async def vms(self) -> dict[str, dict[str, Any]]:
        return {"thief": self.said}

    async def alive(self) -> dict[str, dict[str, Any]]:
        return {"thief": self.said}


@pytest.mark.parametrize("odd", ODD)
def test_a_vm_can_be_shown(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("version", "zone", "architecture", "image", "room", "draining", "load", "sessions")
    said = {key: json.loads(odd) for key in (*keys, "ready", "problem")}
    command.show(asyncio.run(command.shown(Telling(said))))
    assert max(map(len, capsys.readouterr().out.splitlines())) < 1000


@pytest.mark.parametrize("said", [{}, {"error": "the disk is full"}, {"draining": "yes"}])
@pytest.mark.parametrize("wish", ["drain", "undrain"])
def test_a_vm_drains_if_it_says_so(wish: str, said: dict[str, Any]) -> None:
    with pytest.raises(SeraiError, match=f"a does not {wish}: {said.get('error', 'it does')}"):
        asyncio.run(command.drained(Telling(said), "a", wish))
    done = {"draining": wish == "drain"}
    assert asyncio.run(command.drained(Telling(done), "a", wish)) == done


@pytest.mark.parametrize(
    "peer", ["ssh://me@elsewhere", "unix:///x", "nats://s:1", 7, "nats://s/.."]
)
def test_a_vm_does_not_choose_where_its_sessions_go(peer: object) -> None:
    with pytest.raises(SeraiError):
        command._of_the_fleet(peer)
    assert command._of_the_fleet("nats://s:1,t:2/b") == "b"


def test_who_writes_all_the_time_is_not_read_all_the_time() -> None:
    """There were three rows at the beginning, and there is always one more."""
    many = 10 * client.MOST_MORE

    async def unsubscribe() -> None:
        pass

    async def info() -> Any:
        return SimpleNamespace(delivered=None, num_pending=3)

    async def write(told: Callable[[Any], Awaitable[None]]) -> None:
        for number in range(many):
            sequence = SimpleNamespace(stream=number, consumer=number)
            meta = SimpleNamespace(sequence=sequence, num_pending=1, timestamp=datetime.min)
            row = {"headers": None, "data": b"{}", "subject": "$KV.x.a.b", "metadata": meta}
            await told(SimpleNamespace(**row))
            await asyncio.sleep(0)

    async def read() -> int:
        writers: list[asyncio.Task[None]] = []

        async def subscribe(*_: object, cb: Any, **__: object) -> Any:
            writers.append(asyncio.create_task(write(cb)))
            return SimpleNamespace(consumer_info=info, unsubscribe=unsubscribe)

        made = Telling({})
        made.jetstream = cast("Any", SimpleNamespace(subscribe=subscribe))
        return len(await made._read("KV_x", "$KV.x.", ">"))

    assert 3 < asyncio.run(read()) < many
