from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from serai.common.errors import WRONG_STATE, SeraiError
from serai.runtime.sessions.states import (
    FACTS,
    GOALS,
    STARTED,
    Facts,
    State,
    Step,
    fallback,
    plan,
)

EFFECTS: dict[Step, dict[str, Any]] = {
    Step.MAKE_HOME: {"home": "open"},
    Step.UNLOCK_HOME: {"home": "open"},
    Step.PLACE_HOME: {"home": "open"},
    Step.LOCK_HOME: {"home": "locked"},
    Step.MOVE_HOME_AWAY: {"home": "gone"},
    Step.START: {"running": True},
    Step.LIMIT_UNIT: {},
    Step.LIMIT_DISK: {},
    Step.MOUNT_FOLDERS: {},
    Step.STOP: {"running": False, "frozen": False},
    Step.FREEZE: {"frozen": True},
    Step.THAW: {"frozen": False},
}


def after(facts: Facts, step: Step) -> Facts:
    """The world after a step; the order of steps must make sense at each."""
    if step is Step.START:
        assert facts.home == "open", "a session is started without its home"
    if step in (Step.LOCK_HOME, Step.MOVE_HOME_AWAY):
        assert not facts.running, "a home is taken from a running session"
    if step in (Step.FREEZE, Step.THAW):
        assert facts.running
    if step in STARTED:
        assert facts.running, "it is mounted into a sandbox that is not there"
        assert not facts.frozen
    return dataclasses.replace(facts, **EFFECTS[step])


@pytest.mark.parametrize(
    ("state", "goal"), [(state, goal) for state in State for goal in sorted(GOALS[state])]
)
def test_every_plan_leads_to_its_goal_wherever_it_was_cut_off(state: State, goal: State) -> None:
    steps = plan("x", state, goal)
    for cut in range(len(steps) + 1):
        facts = FACTS[state]
        for step in steps[:cut]:
            facts = after(facts, step)
        # Run again from the start, in the world as it is: thawing what was stopped does nothing.
        for step in steps:
            if facts.running or step not in (Step.FREEZE, Step.THAW):
                facts = after(facts, step)
        assert facts == FACTS[goal]


@pytest.mark.parametrize(
    ("state", "goal"),
    [(state, goal) for state, goal in itertools.product(State, State) if goal not in GOALS[state]],
)
def test_other_ways_are_refused(state: State, goal: State) -> None:
    with pytest.raises(SeraiError, match="session x is") as caught:
        plan("x", state, goal)
    assert caught.value.code == WRONG_STATE


@pytest.mark.parametrize(
    ("state", "goal"), [(state, goal) for state in State for goal in sorted(GOALS[state])]
)
def test_a_session_is_never_started_without_its_share_of_the_disk_and_its_folders(
    state: State, goal: State
) -> None:
    steps = plan("x", state, goal)
    assert [step for step in steps if step in (Step.START, *STARTED)] == (
        [Step.START, *STARTED] if Step.START in steps else []
    )


def test_nothing_leads_out_of_removing_and_everything_leads_there() -> None:
    assert GOALS[State.REMOVING] == {State.REMOVING}
    assert all(State.REMOVING in goals for goals in GOALS.values())


@pytest.mark.parametrize(
    ("state", "failed", "end"),
    [
        (State.CREATING, Step.START, State.REMOVING),
        (State.ARCHIVED, Step.UNLOCK_HOME, State.ARCHIVED),
        (State.ARCHIVED, Step.START, State.STOPPED),
        (State.ARCHIVED, Step.LIMIT_UNIT, State.STOPPED),
        (State.ARCHIVED, Step.LIMIT_DISK, State.STOPPED),
        (State.ARCHIVED, Step.MOUNT_FOLDERS, State.STOPPED),
        (State.CREATING, Step.MOUNT_FOLDERS, State.REMOVING),
        (State.STOPPED, Step.MOUNT_FOLDERS, State.STOPPED),
        (State.READY, Step.LOCK_HOME, State.STOPPED),
        (State.READY, Step.FREEZE, State.READY),
        (State.FROZEN, Step.THAW, State.FROZEN),
    ],
)
def test_where_a_failed_step_leaves_a_session(state: State, failed: Step, end: State) -> None:
    assert fallback(state, failed) is end
