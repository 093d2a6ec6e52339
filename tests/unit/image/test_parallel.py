"""Actions side by side end together, whatever happens to one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from serai.image.errors import BuildError
from serai.image.parallel import in_parallel


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
