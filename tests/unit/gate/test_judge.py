"""What a session's last look-up came to is used again, while nothing that it depends on changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from typing import cast

import pytest

from serai.gate.allowance import Allowance
from serai.gate.audit.writer import Log
from serai.gate.connections import dial, lookups
from serai.gate.connections.lookups import Lookups
from serai.gate.egress import Egress, Session
from serai.gate.policy.hosts import Address, Target
from serai.gate.policy.rules import Rules, rule
from serai.gate.profiles import Policy
from serai.gate.settings import Settings

API = Target("api.test", 443)
ALLOW = Rules(allow=(rule("api.test"),))
FIRST: list[Address] = [ip_address("8.8.8.8"), ip_address("10.0.0.1")]
SECOND: list[Address] = [ip_address("8.8.4.4")]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Address]]:
    """The addresses that were looked at, whether they are the VM's own."""
    found: list[Address] = []

    def probe(address: Address) -> bool:
        found.append(address)
        return False

    monkeypatch.setattr(dial, "is_own", probe)
    yield found


def session() -> Session:
    return Session("quiet-otter", 7, Policy(), ALLOW, Allowance(1, 1), Lookups(8))


def test_it_is_judged_once_for_an_answer_of_the_resolver(
    probed: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "KEPT", 0.0)
    answers = [FIRST, SECOND]

    async def resolve(_: str) -> list[Address]:
        return answers.pop(0)

    async def main() -> None:
        egress, one = Egress(Settings(), cast("Log", None), resolve), session()
        first = await egress.judge(one, API)
        assert [(str(address), each.allowed) for address, each in first] == [
            ("8.8.8.8", True),
            ("10.0.0.1", False),
        ]
        assert await egress.judge(one, API) is first
        assert len(probed) == 1, "what is denied anyway is not looked at"
        while one.lookups.known("api.test") is not None:
            await asyncio.sleep(0)
        assert [str(address) for address, _ in await egress.judge(one, API)] == ["8.8.4.4"]

    asyncio.run(main())


def test_another_port_is_judged_by_itself(probed: list[Address]) -> None:
    async def resolve(_: str) -> list[Address]:
        return FIRST

    async def main() -> None:
        egress, one = Egress(Settings(), cast("Log", None), resolve), session()
        one.rules = Rules(allow=(rule("api.test:443"),))
        assert (await egress.judge(one, API))[0][1].allowed
        assert not any(each.allowed for _, each in await egress.judge(one, Target("api.test", 80)))

    asyncio.run(main())
    assert len(probed) == 1


def test_another_policy_holds_at_once_and_another_session_knows_nothing(
    probed: list[Address],
) -> None:
    async def resolve(_: str) -> list[Address]:
        return FIRST

    async def main() -> None:
        egress, one, other = Egress(Settings(), cast("Log", None), resolve), session(), session()
        for each in (one, other):
            assert (await egress.judge(each, API))[0][1].allowed
        one.rules = Rules()
        assert [each.allowed for _, each in await egress.judge(one, API)] == [False]
        one.rules = Rules(allow=ALLOW.allow, deny=(rule("8.8.8.0/24"),))
        assert not any(each.allowed for _, each in await egress.judge(one, API))
        assert (await egress.judge(other, API))[0][1].allowed

    asyncio.run(main())
    assert len(probed) == 2  # once in each session
