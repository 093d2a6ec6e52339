"""What is frozen because it idles, and what is archived because its time to live is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import uses
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.steps.uses import Uses
from serai.runtime.sessions.watches import idle
from serai.runtime.sessions.watches.idle import Counted, Look, decide, seen

READY, ACTIVE, FROZEN, STOPPED = State.READY, State.ACTIVE, State.FROZEN, State.STOPPED
ARCHIVED, REMOVING = State.ARCHIVED, State.REMOVING
NOW = 1_000_000.0


def record(state: State = READY, goal: State | None = None, **limits: str) -> Record:
    """A session that was made ten minutes ago."""
    times = (NOW - 600, NOW - 600, NOW - 600)
    return Record(2000, "one", state, goal, {}, *times, own=Own(limits), lives_from=NOW - 600)


def looked(idle: float, *, called: bool = False) -> Look:
    """A look at a session that worked so many seconds ago."""
    return Look(5000.0, (1.0, 1), 5000.0 - idle, called)


@pytest.mark.parametrize(
    ("session", "look", "used", "asleep", "expected"),
    [
        (record(), looked(9999), 0, False, None),
        (record(memory="1G"), looked(9999), 0, False, None),
        (record(idle_freeze="10m"), looked(600), 0, False, FROZEN),
        (record(ACTIVE, idle_freeze="10m"), looked(600), 0, False, FROZEN),
        (record(idle_freeze="10m"), looked(599), 0, False, None),
        (record(idle_freeze="10m"), looked(9999), 4401, False, None),
        (record(idle_freeze="10m"), looked(9999), 4400, False, FROZEN),
        (record(idle_freeze="10m"), looked(9999), 5001, False, None),  # since the look
        (record(idle_freeze="10m"), None, 0, False, None),
        (record(STOPPED, idle_freeze="10m"), None, 0, False, None),
        (record(ARCHIVED, idle_freeze="10m"), None, 0, False, None),
        (record(FROZEN, idle_freeze="10m"), looked(0, called=True), 0, True, READY),
        (record(FROZEN, idle_freeze="10m"), looked(0, called=True), 0, False, None),  # by a switch
        (record(FROZEN, idle_freeze="10m"), looked(0), 5000, True, None),
        (record(FROZEN), looked(0, called=True), 0, True, None),
        *(
            (record(state, ttl="10m"), looked(0), 5000, False, ARCHIVED)
            for state in (READY, ACTIVE)
        ),
        *((record(state, ttl="10m"), None, 5000, False, ARCHIVED) for state in (FROZEN, STOPPED)),
        *((record(state, ttl="10m"), None, 5000, False, None) for state in (ARCHIVED, REMOVING)),
        (record(ttl="601s"), looked(9999), 0, False, None),
        (record(ttl="10m", idle_freeze="10m"), looked(9999), 0, False, ARCHIVED),
        (record(ttl="1d", idle_freeze="10m"), looked(9999), 0, False, FROZEN),
    ],
)
def test_what_becomes_of_a_session(
    session: Record, look: Look | None, used: float, asleep: bool, expected: State | None
) -> None:
    assert decide(session, NOW, look, used, asleep=asleep) is expected


def test_what_is_just_changing_is_left_alone() -> None:
    moving = record(READY, ACTIVE, ttl="10m", idle_freeze="10m")
    assert decide(moving, NOW, looked(9999), 0, asleep=False) is None


@pytest.mark.parametrize(
    ("before", "now", "works", "called"),
    [
        ((5.0, 100), (5.0, 100), False, False),
        ((5.0, 100), (5.1, 100), False, False),  # a server's timers
        ((5.0, 100), (5.2, 100), True, False),
        ((5.0, 100), (5.0, 101), True, True),
        ((5.0, 100), (5.0, 0), True, False),  # another gate
        ((5.0, 100), None, True, False),
        (None, (5.0, 100), True, False),
    ],
)
def test_work_is_cpu_time_and_traffic(
    before: Counted | None, now: Counted | None, works: bool, called: bool
) -> None:
    found = seen(Look(100.0, before, 50.0), 110.0, now)
    assert (found.worked, found.called) == (110.0 if works else 50.0, called)


def test_a_session_that_is_met_for_the_first_time_begins_to_idle_then() -> None:
    assert seen(None, 110.0, (5.0, 100)).worked == 110.0


class Stub:
    """As much of ``Sessions``, of the gate and of the clock as the watch needs."""

    def __init__(self, cgroup: Path) -> None:
        self.record = record()
        self.registry = SimpleNamespace(timed=lambda: [self.record])
        self.now = NOW
        self.reasons: dict[int, str] = {}
        self.told: list[Any] = []
        self.noted: list[Any] = []
        self.notes = SimpleNamespace(
            by_itself=lambda operation, _, **more: self.noted.append((operation, more))
        )
        self.gone: list[State] = []
        self.error: SeraiError | None = None
        self.in_line: Callable[[], None] = lambda: None
        self.asked = self.traffic = 0
        self.gate_answers = True
        self._cgroup = cgroup
        self._before: dict[Any, Look] = {}
        self.uses = Uses()
        self.work(0.0)

    def work(self, cpu: float) -> None:
        """It has used so many seconds of CPU time."""
        (self._cgroup / "cpu.stat").write_text(f"usage_usec {int(cpu * 1e6)}\n")

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def running(self, found: Record) -> object:
        runs = found.state in (READY, ACTIVE, FROZEN)
        return SimpleNamespace(cgroup=self._cgroup, main=7) if runs else None

    async def call(self, method: str) -> dict[str, dict[str, int]]:
        assert method == "counts"
        self.asked += 1
        if not self.gate_answers:
            raise SeraiError("the gate does not answer")
        counts = dict.fromkeys(("open", "sent", "received", "allowed", "denied"), 0)
        return {"one": {**counts, "received": self.traffic}}

    async def settle(self, name: str, wanted: Callable[[Record], State | None]) -> State | None:
        assert name == "one"
        self.in_line()
        if (goal := wanted(self.record)) is not None:
            if self.error:
                raise self.error
            self.gone.append(goal)
            self.record = replace(self.record, state=goal)
            self.uses.arrived("one")
        return goal

    def look(self, later: float) -> list[State]:
        """What has become of it so far, after one more look so much later."""
        self.now += later
        us, gate = cast("Sessions", self), cast("GateClient", self)

        def announce(event: str, told: dict[str, Any]) -> None:
            self.told.append((event, told))

        self._before = asyncio.run(idle.look(us, gate, announce, self._before))
        return list(self.gone)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub(tmp_path)
    for module in (idle, uses):
        monkeypatch.setattr(module, "time", made)
    made.uses = Uses()
    return made


def test_a_session_that_idles_is_frozen_and_everybody_hears_why(stub: Stub) -> None:
    stub.record = record(idle_freeze="1m")
    assert [stub.look(10), stub.look(59)] == [[], []]
    assert stub.look(1) == [FROZEN]
    assert stub.told == [("session.limited", {"name": "one", "limit": "idle_freeze", "count": 1})]
    assert (stub.reasons, stub.uses.asleep) == ({2000: "it idled"}, {"one"})
    assert stub.noted == [("freeze", {"reason": "it idled"})]
    assert stub.look(9999) == [FROZEN]


def test_work_and_use_keep_it_from_that(stub: Stub) -> None:
    stub.record = record(idle_freeze="1m")
    for step in range(20):
        stub.work(step * 2.0)
        assert stub.look(30) == []
    for _ in range(20):
        stub.traffic += 1
        assert stub.look(30) == []
    for _ in range(20):
        stub.uses.note("one")
        assert stub.look(30) == []
    with stub.uses.awaited("one"), stub.uses.awaited("one"):
        for _ in range(20):
            assert stub.look(30) == []
    assert (stub.look(30), stub.look(60)) == ([], [FROZEN])


def test_what_comes_through_the_gate_wakes_it(stub: Stub) -> None:
    stub.record = record(idle_freeze="1m")
    stub.look(10)
    assert stub.look(60) == [FROZEN]
    stub.work(99.0)
    assert stub.look(10) == [FROZEN]
    stub.traffic += 1
    assert stub.look(10) == [FROZEN, READY]
    assert (stub.look(59), stub.uses.asleep, len(stub.told)) == ([FROZEN, READY], set(), 1)


def test_nothing_is_frozen_of_which_nobody_says_what_it_does(stub: Stub) -> None:
    stub.record = record(idle_freeze="1m")
    stub.gate_answers = False
    assert (stub.look(10), stub.look(600), stub.look(600)) == ([], [], [])
    stub.gate_answers = True
    assert (stub.look(600), stub.look(60)) == ([], [FROZEN])


def test_one_that_is_used_while_it_waits_for_its_turn_stays(stub: Stub) -> None:
    stub.record = record(idle_freeze="1m")
    stub.look(10)
    stub.in_line = lambda: stub.uses.note("one")
    assert stub.look(600) == []
    assert stub.told == []


def test_a_time_to_live_is_over_whether_it_runs_or_not(stub: Stub) -> None:
    stub.record = record(STOPPED, ttl="11m")
    assert stub.look(59) == []
    assert stub.look(1) == [ARCHIVED]
    assert stub.told == [("session.limited", {"name": "one", "limit": "ttl", "count": 1})]
    assert (stub.look(9999), stub.asked) == ([ARCHIVED], 0)


def test_what_fails_is_logged_and_tried_again_later(
    stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.record = record(idle_freeze="1m")
    stub.error = SeraiError("it does not freeze")
    stub.look(10)
    assert stub.look(60) == []
    assert "session one is not frozen, woken or archived: it does not freeze" in caplog.text
    stub.error = None
    assert (stub.look(59), stub.told) == ([], [])
    assert stub.look(1) == [FROZEN]


def test_the_gate_is_asked_only_for_sessions_that_run_and_can_idle(stub: Stub) -> None:
    for each in (record(ttl="1d"), record(STOPPED, idle_freeze="1m")):
        stub.record = each
        stub.look(10)
    assert stub.asked == 0


def test_it_goes_on_after_a_look_that_failed(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    looks = 0

    def timed() -> list[Record]:
        nonlocal looks
        looks += 1
        raise SeraiError("the registry cannot be read") if looks == 1 else asyncio.CancelledError

    stub.registry = SimpleNamespace(timed=timed)
    watch = idle.run(cast("Sessions", stub), cast("GateClient", stub), lambda *_: None, 0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch)
    assert "the registry cannot be read" in caplog.text
