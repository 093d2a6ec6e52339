"""Subscribers hear which limit a session has met, once a look."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.jsonrpc_server import Connection, Subscribers
from serai.runtime.sessions.steps.quota import Usage
from serai.runtime.sessions.watches import limits
from serai.runtime.sessions.watches.limits import Met, Start

MIB = 1 << 20


class Client:
    """As much of a connection as subscribers need."""

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Clients(Subscribers):
    """Subscribers of which only is noted what they hear."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, int]] = []

    def announce(self, event: str, params: dict[str, Any]) -> None:
        assert event == "session.limited"
        self.heard.append((params["name"], params["limit"], params["count"]))

    def come(self) -> asyncio.Future[None]:
        """One more; it is gone when the result is done."""
        client = Client()
        self.add(cast("Connection", client))
        return client.gone


def told(*looks: dict[Start, Met]) -> list[tuple[str, str, int]]:
    """What is announced if these are seen, one after another."""
    rest = iter(looks)

    def running() -> Any:
        found = next(rest, None)
        if found is None:
            raise asyncio.CancelledError
        return found.items()

    async def watch() -> list[tuple[str, str, int]]:
        clients = Clients()
        clients.come()
        with pytest.raises(asyncio.CancelledError):
            await limits.run(running, clients, 0)
        return clients.heard

    return asyncio.run(watch())


def test_it_looks_only_while_somebody_listens() -> None:
    looks = 0

    def running() -> Any:
        nonlocal looks
        looks += 1
        return {("one", 7): {"tasks": looks}}.items()

    async def settled() -> int:
        before = looks
        for _ in range(20):
            await asyncio.sleep(0)
        return looks - before

    async def watch() -> None:
        clients = Clients()
        watching = asyncio.create_task(limits.run(running, clients, 0))
        assert await settled() == 0
        first, second = clients.come(), clients.come()
        assert await settled() > 1
        first.set_result(None)
        assert await settled() > 1
        second.set_result(None)
        await settled()
        heard = len(clients.heard)
        assert (await settled(), len(clients.heard)) == (0, heard)
        clients.come()
        assert await settled() > 1
        assert clients.heard[heard][2] == 1, "what was met while nobody listened is not told"
        watching.cancel()

    asyncio.run(watch())


def test_what_a_session_met_since_the_last_look_is_one_event() -> None:
    looks: list[dict[Start, Met]] = [
        {("one", 7): met} for met in ({"tasks": 5}, {"tasks": 1005}, {"tasks": 1006, "memory": 1})
    ]
    assert told(looks[0], looks[0]) == [], "that was before"
    assert told(*looks) == [("one", "tasks", 1000), ("one", "tasks", 1), ("one", "memory", 1)]


def test_a_session_that_was_started_since_begins_at_zero() -> None:
    before: dict[Start, Met] = {("one", 7): {"memory": 3}}
    assert told(before, {("one", 8): {"memory": 2}}) == [("one", "memory", 2)]
    assert told({}, {("new", 9): {"memory": 1}}) == [("new", "memory", 1)]


def test_a_full_disk_is_told_once_until_there_is_room_again() -> None:
    full: dict[Start, Met] = {("one", 7): {"quota": 1}}
    room: dict[Start, Met] = {("one", 7): {"quota": 0}}
    assert told(room, full, full) == [("one", "quota", 1)]
    assert len(told(room, full, room, full)) == 2


@pytest.mark.parametrize(
    ("used", "full"),
    [
        (Usage(MIB - 4096, MIB, 1, 0), 1),
        (Usage(MIB // 2, MIB, 1, 0), 0),
        (Usage(5 * MIB, MIB, 1, 0), 1),
        (Usage(MIB, 0, 9, 9), 1),
        (Usage(MIB, 0, 9, 0), 0),
        (None, 0),
    ],
)
def test_a_session_is_full_when_it_can_write_no_more(
    tmp_path: Path, used: Usage | None, full: int
) -> None:
    (tmp_path / "pids.events").write_text("max 4\n")
    assert limits.met(tmp_path, used) == {"memory": 0, "tasks": 4, "quota": full}
