from __future__ import annotations

import asyncio
import socket

import pytest

from serai.gate.connections.relay import Traffic, relay, within
from serai.gate.connections.share import Share


def test_what_is_done_in_time_is_returned() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(within(30, work())) == "done"
    assert asyncio.run(within(0, work())) == "done"


def test_a_fault_passes() -> None:
    async def work() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(within(30, work()))


def test_what_is_too_late_has_ended_before_it_is_said() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(within(0.01, work()))
    assert ended == ["ended"]


def test_a_cut_in_the_turn_of_the_result_is_not_lost() -> None:
    """Which is what asyncio.wait_for makes of it before Python 3.12."""

    async def work(result: asyncio.Future[str]) -> str:
        return await result

    async def main(turns: int) -> bool:
        result = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(within(30, work(result)))
        for _ in range(5):
            await asyncio.sleep(0)
        result.set_result("too late")
        for _ in range(turns):
            await asyncio.sleep(0)
        wanted = waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() == wanted
        return wanted

    cuts = [asyncio.run(main(turns)) for turns in range(6)]
    assert cuts[0] and not cuts[-1]


def test_a_cut_lets_go_of_both_sockets() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        for one, other in pairs:
            one.setblocking(False)
            other.setblocking(False)
        work = asyncio.ensure_future(relay(pairs[0][0], pairs[1][0], Traffic(loop.time()), Share()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work})
        left = sum(loop.remove_reader(sock) for pair in pairs for sock in pair)
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()
        return left

    assert asyncio.run(main()) == 0
