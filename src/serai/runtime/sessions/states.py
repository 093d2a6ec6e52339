"""A session's states, and the steps that lead from one to another. Pure: decides, does nothing.

A state is three facts: where the home is, whether the unit runs, whether it is frozen. The steps
between two states follow from the difference of their facts. Each step may be repeated without
harm, so an operation that was cut off is finished by running its plan again from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from serai.common.errors import WRONG_STATE, SeraiError


class State(str, Enum):
    """What ``serai list`` shows."""

    CREATING = "creating"
    READY = "ready"
    ACTIVE = "active"
    FROZEN = "frozen"
    STOPPED = "stopped"
    ARCHIVED = "archived"
    REMOVING = "removing"
    ARRIVING = "arriving"
    MOVING = "moving"


class Step(str, Enum):
    """One thing the executor does; safe to do twice."""

    MAKE_HOME = "make-home"
    UNLOCK_HOME = "unlock-home"
    LOCK_HOME = "lock-home"
    MOVE_HOME_AWAY = "move-home-away"
    PLACE_HOME = "place-home"
    START = "start"
    LIMIT_UNIT = "limit-unit"
    LIMIT_DISK = "limit-disk"
    MOUNT_FOLDERS = "mount-folders"
    STOP = "stop"
    FREEZE = "freeze"
    THAW = "thaw"
    FIT_SANDBOX = "fit-sandbox"
    OPEN_GATE = "open-gate"


@dataclass(frozen=True)
class Facts:
    """What is true of the world in a state."""

    home: str  # absent, staged, open, locked or gone
    running: bool = False
    frozen: bool = False


FACTS = {
    State.CREATING: Facts("absent"),
    State.READY: Facts("open", running=True),
    State.ACTIVE: Facts("open", running=True),
    State.FROZEN: Facts("open", running=True, frozen=True),
    State.STOPPED: Facts("open"),
    State.ARCHIVED: Facts("locked"),
    State.REMOVING: Facts("gone"),
    State.ARRIVING: Facts("staged"),
    State.MOVING: Facts("locked"),
}

_BEGINNINGS = {State.CREATING, State.ARRIVING}
GOALS = {
    State.CREATING: {State.READY, State.REMOVING},
    State.READY: set(State) - _BEGINNINGS,
    State.ACTIVE: set(State) - _BEGINNINGS,
    State.FROZEN: set(State) - _BEGINNINGS,
    State.STOPPED: set(State) - _BEGINNINGS - {State.FROZEN},
    State.ARCHIVED: set(State) - _BEGINNINGS - {State.FROZEN},
    State.REMOVING: {State.REMOVING},
    State.ARRIVING: {State.STOPPED, State.ARCHIVED, State.REMOVING},
    State.MOVING: {State.STOPPED, State.ARCHIVED, State.REMOVING},
}

_HOME_STEPS = {
    ("absent", "open"): [Step.MAKE_HOME],
    ("locked", "open"): [Step.UNLOCK_HOME],
    ("open", "locked"): [Step.LOCK_HOME],
    ("staged", "open"): [Step.PLACE_HOME],
    ("staged", "locked"): [Step.PLACE_HOME, Step.LOCK_HOME],
    **{(home, "gone"): [Step.MOVE_HOME_AWAY] for home in ("absent", "staged", "open", "locked")},
}

STARTED = (Step.LIMIT_UNIT, Step.LIMIT_DISK, Step.MOUNT_FOLDERS)
"""What a unit that runs still needs before its session counts as running."""

TAKEN = (Step.LIMIT_UNIT, Step.LIMIT_DISK, Step.FIT_SANDBOX, Step.OPEN_GATE)
"""What one that was taken out of the pool still needs: it runs, with its home and its folders."""

RUNNING = frozenset(state for state, facts in FACTS.items() if facts.running)

TIMELESS = (State.ARCHIVED, State.REMOVING, State.ARRIVING, State.MOVING)
"""In which a session's time to live does not count."""


def plan(name: str, state: State, goal: State) -> tuple[Step, ...]:
    """The steps from ``state`` to ``goal``. Raises SeraiError if there is no such way."""
    if goal not in GOALS[state]:
        raise SeraiError(
            f"session {name} is {state.value} and cannot become {goal.value}", code=WRONG_STATE
        )
    return _steps(state, FACTS[state], FACTS[goal])


def fallback(state: State, failed: Step) -> State:
    """Where a session that was in ``state`` goes when a step of its plan fails."""
    if state is State.CREATING:
        return State.REMOVING
    if state in (State.ARRIVING, State.MOVING):
        return state
    if state is State.ARCHIVED and failed not in (Step.START, *STARTED):
        return State.ARCHIVED
    if failed in (Step.FREEZE, Step.THAW, Step.STOP):
        return state
    return State.STOPPED


def _steps(state: State, before: Facts, after: Facts) -> tuple[Step, ...]:
    steps: list[Step] = []
    if before.frozen and not after.frozen:
        steps.append(Step.THAW)
    # A session that is still being created may already have a unit when that is cut off.
    if (before.running or state is State.CREATING) and not after.running:
        steps.append(Step.STOP)
    steps += _HOME_STEPS.get((before.home, after.home), [])
    if after.running and not before.running:
        steps += [Step.START, *STARTED]
    if after.frozen and not before.frozen:
        steps.append(Step.FREEZE)
    return tuple(steps)
