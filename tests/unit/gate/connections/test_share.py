"""A session's share of the loop, counted in turns and steps; the clock is the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from serai.gate.connections import share
from serai.gate.connections.relay import Traffic, relay
from serai.gate.connections.share import (
    BUFFERED,
    LARGE_PIECE,
    PIECE,
    QUANTUM,
    SAVINGS,
    SMALL_PIECE,
    Share,
    metered,
)

NEIGHBOURS = 50
STEP = QUANTUM  # what a step of the neighbours costs


class Clock:
    """A processor's time that passes only when a step says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr(share, "clock", fake)
    yield fake


def neighbours_steps(clock: Clock, turns: int) -> int:
    """How many steps of a busy session come while another makes ``turns`` of its own."""
    steps = 0

    async def busy() -> None:
        nonlocal steps
        while True:
            steps += 1
            clock.now += STEP
            await asyncio.sleep(0)

    async def main() -> int:
        blue, red = Share(), Share()
        tasks = [asyncio.create_task(metered(blue, busy)) for _ in range(NEIGHBOURS)]
        for _ in range(2 * NEIGHBOURS):  # until the first steps are paid for
            await asyncio.sleep(0)
        before = steps

        async def quiet() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        await metered(red, quiet)
        found = steps - before
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        return found

    return asyncio.run(main())


def test_a_busy_neighbour_has_one_step_in_a_turn(clock: Clock) -> None:
    assert 5 <= neighbours_steps(clock, 20) <= 21


def test_without_a_share_it_has_as_many_as_it_has_connections(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Share, "busy", False)
    assert neighbours_steps(clock, 20) >= 20 * NEIGHBOURS


def test_who_is_alone_gets_all_turns(clock: Clock) -> None:
    async def main() -> int:
        mine, steps = Share(), 0

        async def work() -> None:
            nonlocal steps
            for _ in range(10):
                steps += 1
                clock.now += QUANTUM / 2
                await asyncio.sleep(0)

        await asyncio.gather(*(metered(mine, work) for _ in range(NEIGHBOURS)))
        return steps

    assert asyncio.run(main()) == 10 * NEIGHBOURS


def test_a_step_that_took_too_long_is_paid_back(clock: Clock) -> None:
    """As many turns pass before its next step."""

    async def main() -> int:
        mine, turns = Share(), 0

        async def work() -> None:
            clock.now += SAVINGS + 40 * QUANTUM
            await asyncio.sleep(0)

        task = asyncio.create_task(metered(mine, work))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert 38 <= asyncio.run(main()) <= 46


def test_who_rested_pays_with_what_it_saved_and_waits_for_nobody(clock: Clock) -> None:
    """Beside a busy session it has its steps in as many turns, though each is twice its share."""

    async def main() -> tuple[int, int]:
        busy_one, rested = Share(), Share()

        async def busy() -> None:
            while True:
                clock.now += QUANTUM
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(metered(busy_one, busy)) for _ in range(NEIGHBOURS)]
        for _ in range(2 * NEIGHBOURS):
            await asyncio.sleep(0)
        saved = int(SAVINGS / QUANTUM)

        async def turns_of(steps: int) -> int:
            turns = 0

            async def work() -> None:
                for _ in range(steps):
                    clock.now += 2 * QUANTUM
                    await asyncio.sleep(0)

            mine = asyncio.create_task(metered(rested, work))
            while not mine.done():
                turns += 1
                await asyncio.sleep(0)
            return turns

        found = await turns_of(saved // 2), await turns_of(saved // 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return found

    first, then = asyncio.run(main())
    steps = int(SAVINGS / QUANTUM) // 2
    assert first <= steps + 3
    assert then >= 3 * steps // 2, "nothing is left"


def test_results_faults_and_cuts_pass() -> None:
    seen = []

    async def fails() -> None:
        try:
            await asyncio.sleep(0)
            raise OSError("why")
        finally:
            seen.append("end")

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cut")
            await asyncio.sleep(0)
            raise

    async def result() -> int:
        await asyncio.sleep(0)
        return 7

    async def main() -> None:
        assert await metered(Share(), result) == 7
        with pytest.raises(OSError, match="why"):
            await metered(Share(), fails)
        task = asyncio.create_task(metered(Share(), waits))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(main())
    assert seen == ["end", "cut"]


def test_a_cut_reaches_who_waits_in_line(clock: Clock) -> None:
    async def main() -> list[str]:
        mine, seen = Share(), []

        async def work() -> None:
            clock.now += 1000 * QUANTUM
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                seen.append("cut")
                raise

        task = asyncio.create_task(metered(mine, work))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return seen

    assert asyncio.run(main()) == ["cut"]


def test_who_is_alone_reads_large_pieces_until_another_has_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = Share(), Share()
    theirs.begin()
    mine.begin()
    assert mine.piece == PIECE, "the other one had a step just now"
    monkeypatch.setattr(share, "ALONE", 0.0)
    assert mine.piece == LARGE_PIECE
    mine.held = BUFFERED
    assert mine.piece == SMALL_PIECE
    mine.held = 0
    theirs.begin()
    assert mine.piece == PIECE


def test_pieces_that_nobody_takes_are_counted_and_make_further_ones_small() -> None:
    async def main() -> tuple[int, int, int]:
        mine = Share()
        assert mine.piece == PIECE
        pairs = [socket.socketpair() for _ in range(2)]
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
        (client, inner), (origin, outer) = pairs
        work = asyncio.ensure_future(
            relay(inner, outer, Traffic(asyncio.get_running_loop().time()), mine)
        )
        while not mine.held:  # the client reads nothing
            with contextlib.suppress(BlockingIOError):
                origin.send(bytes(PIECE))
            await asyncio.sleep(0)
        held = mine.held
        mine.held += BUFFERED
        small = mine.piece
        mine.held -= BUFFERED
        work.cancel()
        await asyncio.wait({work})
        for sock in (client, inner, origin, outer):
            sock.close()
        return held, small, mine.held

    held, small, after = asyncio.run(main())
    assert 0 < held <= PIECE
    assert small == SMALL_PIECE
    assert after == 0
