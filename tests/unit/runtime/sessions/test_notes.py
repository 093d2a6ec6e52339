from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime.sessions.notes import BATCH, Notes


class Gate:
    """It writes ``room`` entries, and says what it was asked for."""

    def __init__(self, room: int = 10_000) -> None:
        self.asked: list[list[Any]] = []
        self.room = room
        self.fails = False
        self.answer: dict[str, int] | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def call(self, _method: str, /, *, entries: list[Any]) -> dict[str, int]:
        await asyncio.sleep(0)
        await self.goes_on.wait()
        if self.fails:
            raise SeraiError("the gate does not answer")
        self.asked.append(entries)
        noted = min(len(entries), self.room)
        self.room -= noted
        return {"noted": noted} if self.answer is None else self.answer


async def noted(gate: Gate, count: int) -> list[object]:
    notes = Notes(gate)  # type: ignore[arg-type]
    asked = (notes.now({"number": number}) for number in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)


def test_what_many_ask_for_at_once_is_sent_in_batches_and_in_their_order() -> None:
    async def main() -> Gate:
        gate = Gate()
        assert await noted(gate, BATCH + 50) == [None] * (BATCH + 50)
        return gate

    gate = asyncio.run(main())
    assert len(gate.asked) <= 3
    assert [each["number"] for batch in gate.asked for each in batch] == list(range(BATCH + 50))


def test_who_is_not_in_the_log_is_told_and_who_is_is_not() -> None:
    async def main() -> list[object]:
        return await noted(Gate(room=3), 5)

    told = asyncio.run(main())
    assert told[:3] == [None] * 3
    assert all("cannot be written" in str(each) for each in told[3:])


def test_all_are_told_of_a_gate_that_is_away() -> None:
    async def main() -> list[object]:
        gate = Gate()
        gate.fails = True
        return await asyncio.wait_for(noted(gate, 5), 10)

    assert all("does not answer" in str(each) for each in asyncio.run(main()))


@pytest.mark.parametrize("which", [0, 1])
def test_one_who_gives_up_keeps_no_other_waiting(which: int) -> None:
    async def main() -> Gate:
        gate = Gate()
        gate.goes_on.clear()
        notes = Notes(gate)  # type: ignore[arg-type]
        tasks = [asyncio.ensure_future(notes.now({"number": number})) for number in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        tasks[which].cancel()
        await asyncio.sleep(0)
        gate.goes_on.set()
        tasks.pop(which)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        return gate

    gate = asyncio.run(main())
    written = [each["number"] for batch in gate.asked for each in batch]
    assert {0, 1, 2} - {which} <= set(written)


def test_who_gives_up_while_another_sends_it_gives_up_in_time() -> None:
    """Else what takes away, which is done in any case, would not be done."""

    async def main() -> Gate:
        gate = Gate()
        gate.goes_on.clear()
        notes = Notes(gate)  # type: ignore[arg-type]
        first, second, late = (asyncio.ensure_future(notes.now({"number": n})) for n in range(3))
        for _ in range(5):
            await asyncio.sleep(0)
        first.cancel()  # the second sends its own and the late one's now
        for _ in range(5):
            await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        gate.goes_on.set()
        await second
        return gate

    asyncio.run(asyncio.wait_for(main(), 10))


def test_what_is_on_its_way_when_the_daemon_ends_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serai.runtime.sessions.notes.PAUSE", 0.0)

    class Slow(Gate):
        """It writes at once, and answers later."""

        async def call(self, _method: str, /, *, entries: list[Any]) -> dict[str, int]:
            self.asked.append(entries)
            await self.goes_on.wait()
            return {"noted": len(entries)}

    async def main() -> Gate:
        gate = Slow()
        gate.goes_on.clear()
        notes = Notes(gate)  # type: ignore[arg-type]
        notes.later({"number": 1})
        running = asyncio.ensure_future(notes.run())
        while not gate.asked:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        notes.later({"number": 2})
        gate.goes_on.set()
        await notes.close()
        return gate

    gate = asyncio.run(asyncio.wait_for(main(), 30))
    assert gate.asked == [[{"number": 1}], [{"number": 2}]]


def test_a_gate_that_answers_nonsense_keeps_nobody_waiting() -> None:
    async def main() -> list[object]:
        gate = Gate()
        gate.answer = {}
        return await asyncio.wait_for(noted(gate, 3), 10)

    assert all("cannot be written" in str(each) for each in asyncio.run(main()))
