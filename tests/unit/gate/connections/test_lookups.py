from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from serai.gate.connections import lookups
from serai.gate.connections.lookups import Lookups
from serai.gate.policy.hosts import Address

HERE: list[Address] = [ip_address("192.0.2.1")]


class Resolver:
    """Answers a name when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, asyncio.Future[list[Address]]] = {}

    async def __call__(self, name: str) -> list[Address]:
        self.asked.append(name)
        self.answers[name] = asyncio.get_running_loop().create_future()
        return await self.answers[name]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_many_ask_once_and_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        now = 0.0  # the loop's clock, which passes when the test says so
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        resolve, names = Resolver(), Lookups(8)
        many = [asyncio.ensure_future(names.find("a.test", resolve)) for _ in range(20)]
        await turns()
        assert names.known("a.test") is None
        resolve.answers["a.test"].set_result(HERE)
        assert await asyncio.gather(*many) == [HERE] * 20
        assert await names.find("a.test", resolve) == names.known("a.test") == HERE
        assert resolve.asked == ["a.test"]
        now += lookups.KEPT
        await turns()
        assert names.known("a.test") is None
        again = asyncio.ensure_future(names.find("a.test", resolve))
        await turns()
        assert resolve.asked == ["a.test"] * 2
        resolve.answers["a.test"].set_result([])
        assert await again == []

    asyncio.run(main())


def test_a_failure_is_everybodys_who_waits_and_is_not_kept() -> None:
    async def main() -> None:
        resolve, names = Resolver(), Lookups(1)
        many = [asyncio.ensure_future(names.find("a.test", resolve)) for _ in range(3)]
        await turns()
        resolve.answers["a.test"].set_exception(OSError("no"))
        failures = await asyncio.gather(*many, return_exceptions=True)
        assert [str(each) for each in failures] == ["no"] * 3
        assert names.known("a.test") is None
        again = asyncio.ensure_future(names.find("a.test", resolve))
        await turns()
        resolve.answers["a.test"].set_result(HERE)
        assert await again == HERE

    asyncio.run(main())


def test_a_turn_lasts_until_the_resolver_is_done() -> None:
    async def main() -> None:
        resolve, names = Resolver(), Lookups(1)
        first = asyncio.ensure_future(names.find("slow.test", resolve))
        await turns()
        first.cancel()
        gone, waiting = (
            asyncio.ensure_future(names.find(name, resolve)) for name in ("b.test", "c.test")
        )
        await turns()
        gone.cancel()
        await turns()
        assert resolve.asked == ["slow.test"]
        resolve.answers["slow.test"].set_result(HERE)
        await turns()
        # Nobody waits for the second one any more.
        assert resolve.asked == ["slow.test", "c.test"]
        resolve.answers["c.test"].set_result(HERE)
        assert await waiting == HERE

    asyncio.run(main())
