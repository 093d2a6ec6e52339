"""Use wakes a session that freezes when it idles, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import NOT_FOUND, WRONG_STATE, SeraiError
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.payloads import waking
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps.uses import Uses

Work = Callable[[Sessions, str], Coroutine[Any, Any, object]]
IDLES = Own({"idle_freeze": "10m"})


class Stub:
    """As much of ``Sessions`` as waking needs."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root / "registry.sqlite")
        self.uses = Uses()
        for name, own in (("idles", IDLES), ("other", Own())):
            record, _ = self.registry.add(name, {}, 1.0, own=own)
            self.registry.arrive({record.uid: State.FROZEN}, 1.0)

    def state(self, name: str) -> State:
        return self.registry.get(name).state

    def running(self, _record: Record) -> object:
        return self

    async def settle(self, name: str, wanted: Callable[[Record], State | None]) -> State | None:
        record = self.registry.get(name)
        if (goal := wanted(record)) is not None:
            self.registry.arrive({record.uid: goal}, 2.0)
        return goal


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    return Stub(tmp_path)


def use(work: Work, stub: Stub, name: str) -> Any:
    return asyncio.run(work(cast("Sessions", stub), name))


def test_a_command_wakes_one_that_idled_and_no_other(stub: Stub) -> None:
    record, running = use(waking.awake, stub, "idles")
    assert (record.state, running) == (State.READY, stub)
    assert stub.registry.get("idles").used_at > 1, "collecting old sessions counts it as used"
    with pytest.raises(SeraiError, match="session other is frozen, not running") as caught:
        use(waking.awake, stub, "other")
    assert caught.value.code == WRONG_STATE


@pytest.mark.parametrize("state", [State.STOPPED, State.ARCHIVED])
def test_no_use_starts_a_session(stub: Stub, state: State) -> None:
    stub.registry.arrive({stub.registry.get("idles").uid: state}, 1.0)
    with pytest.raises(SeraiError, match=f"is {state.value}, not running"):
        use(waking.awake, stub, "idles")
    assert stub.state("idles") is state


def test_one_that_is_just_being_frozen_is_woken_after_that(stub: Stub) -> None:
    uid = stub.registry.get("idles").uid
    stub.registry.arrive({uid: State.READY}, 1.0)
    stub.registry.begin({uid: State.FROZEN})
    before = stub.settle

    async def settle(name: str, wanted: Callable[[Record], State | None]) -> State | None:
        stub.registry.arrive({uid: State.FROZEN}, 1.0)  # what it waited for
        return await before(name, wanted)

    stub.settle = settle  # type: ignore[method-assign]
    assert use(waking.awake, stub, "idles")[0].state is State.READY


def test_bytes_wake_only_what_was_frozen_for_idling(stub: Stub) -> None:
    use(waking.traffic, stub, "idles")
    assert stub.state("idles") is State.FROZEN, "somebody has switched away from it"
    stub.uses.asleep.add("idles")
    use(waking.traffic, stub, "idles")
    assert stub.state("idles") is State.READY


@pytest.mark.parametrize("work", [waking.awake, waking.wake, waking.traffic])
def test_each_of_them_is_a_use(stub: Stub, work: Work) -> None:
    stub.registry.arrive({stub.registry.get("idles").uid: State.READY}, 1.0)
    before = stub.uses.last("idles")
    use(work, stub, "idles")
    assert stub.uses.last("idles") > before


def test_what_does_not_exist_is_not_remembered(stub: Stub) -> None:
    with pytest.raises(SeraiError) as caught:
        use(waking.awake, stub, "nobody")
    assert caught.value.code == NOT_FOUND
    assert "nobody" not in stub.uses._last


def test_a_session_is_in_use_as_long_as_one_client_waits() -> None:
    uses = Uses()
    began = uses.last("one")
    uses.arrived("one")
    with uses.awaited("one"):
        with uses.awaited("one"):
            pass
        assert (before := uses.last("one")) < uses.last("one"), "it is now, each time"
    assert (ended := uses.last("one")) > before
    assert ended == uses.last("one")
    with uses.awaited("one"):
        uses.forget("one")
    assert uses.last("one") == began
