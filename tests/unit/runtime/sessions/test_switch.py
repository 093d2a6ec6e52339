"""A switch whose step fails leaves both sessions as they were, not only in the registry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import STARTED, State, Step
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.supervising.supervisor import Supervisor
from serai.runtime.settings import SessionSettings


class Recorded:
    """In place of ``Steps``: notes each, and fails at one."""

    def __init__(self, fails: Step) -> None:
        self.fails = fails
        self.done: list[tuple[str, Step]] = []

    async def do(self, step: Step, record: Record) -> None:
        self.done.append((record.name, step))
        if step is self.fails:
            self.fails = Step.MAKE_HOME
            raise SeraiError("told to fail")


def switched(root: Path, states: dict[str, State], fails: Step) -> list[tuple[str, Step]]:
    """The steps of a switch from the active session to ``wanted``, which fails at one."""
    paths = Paths(root)
    paths.registry.parent.mkdir(parents=True)
    registry = Registry(paths.registry)
    for name, state in states.items():
        record, _ = registry.add(name, {}, 1.0)
        registry.arrive({record.uid: state}, 1.0)
    nobody: Any = None
    rest = (cast("Supervisor", nobody), SessionSettings(), cast("GateClient", nobody))
    sessions = Sessions(paths, registry, *rest, changed=lambda *_: None)
    steps = Recorded(fails)
    sessions._goals.steps = cast("Any", steps)
    with pytest.raises(SeraiError, match="told to fail"):
        asyncio.run(sessions.switch("wanted"))
    assert {each.name: each.state for each in registry.all()} == states
    return steps.done


def test_who_cannot_be_thawed_leaves_the_other_running(tmp_path: Path) -> None:
    states = {"wanted": State.FROZEN, "before": State.ACTIVE}
    assert switched(tmp_path, states, Step.THAW) == [
        ("before", Step.FREEZE),  # first: the two shall not compete
        ("wanted", Step.THAW),
        ("before", Step.THAW),
    ]


def test_who_cannot_be_frozen_leaves_the_other_locked_away(tmp_path: Path) -> None:
    states = {"wanted": State.ARCHIVED, "before": State.ACTIVE}
    assert switched(tmp_path, states, Step.FREEZE) == [
        *(("wanted", step) for step in (Step.UNLOCK_HOME, Step.START, *STARTED)),
        ("before", Step.FREEZE),
        ("wanted", Step.STOP),
        ("wanted", Step.LOCK_HOME),
    ]
