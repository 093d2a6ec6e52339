"""Actions side by side end together, whatever happens to one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serai.image.errors import BuildError
from serai.image.parallel import guests_at_once, in_parallel


def test_all_that_is_side_by_side_ends_before_its_error_is_told() -> None:
    ended: list[str] = []

    def fails() -> None:
        raise BuildError("the first")

    def works() -> None:
        ended.append("the other")

    actions: list[Callable[[], Any]] = [fails, works]
    with pytest.raises(BuildError, match="the first"):
        in_parallel(actions, threading.Event())
    assert ended == ["the other"]


def test_an_interruption_ends_child_processes_and_lets_the_actions_clean_up() -> None:
    stop, started = threading.Event(), threading.Event()
    ended: list[int] = []

    def waits() -> None:
        with subprocess.Popen(["/bin/sleep", "60"], stdout=subprocess.DEVNULL) as child:
            started.set()
            ended.append(child.wait())

    def interrupts() -> None:
        started.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        in_parallel([waits, interrupts], stop)
    assert ended == [-signal.SIGTERM]
    assert stop.is_set()


def test_no_more_go_on_at_once_than_there_is_room_for() -> None:
    seen: list[str] = []

    def action(name: str) -> Callable[[], None]:
        return lambda: seen.extend([f"{name} begins", f"{name} ends"])

    in_parallel([action(name) for name in "abc"], threading.Event(), at_once=1)
    assert seen == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


def test_what_waits_for_room_does_not_start_once_interrupted() -> None:
    stop = threading.Event()
    begun: list[str] = []
    in_parallel([stop.set, lambda: begun.append("late")], stop, at_once=1)
    assert begun == []


@pytest.mark.parametrize(
    ("processors", "free", "guests"),
    [(1, 64000, 1), (2, 64000, 2), (8, 64000, 8), (8, 5200, 2), (8, 5000, 1), (8, 100, 1)],
)
def test_guests_run_beside_each_other_as_processors_and_free_memory_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int, free: int, guests: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {free << 10} kB\n")
    assert guests_at_once(2048, meminfo) == guests
