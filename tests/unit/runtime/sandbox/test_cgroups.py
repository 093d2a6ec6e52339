"""What a cgroup's files say of it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.runtime.sandbox import cgroups
from tests.support.waiting import wait_for


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("low 0\nhigh 0\nmax 0\noom 0\n", 0),  # before Linux 4.19
    ],
)
def test_processes_killed_for_want_of_memory_are_counted(
    tmp_path: Path, text: str, killed: int
) -> None:
    (tmp_path / "memory.events").write_text(text)
    assert cgroups.out_of_memory(tmp_path) == killed


def test_without_a_memory_controller_none_is_counted(tmp_path: Path) -> None:
    assert cgroups.out_of_memory(tmp_path) == 0
    assert cgroups.out_of_memory(tmp_path / "gone") == 0


def test_what_does_not_freeze_in_time_is_not_left_half_frozen(tmp_path: Path) -> None:
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(SeraiError, match="does not freeze"):
        asyncio.run(cgroups.freeze(tmp_path, deadline=0))
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_the_kernel_is_asked_once_for_what_comes_in_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []

    def own(pid: int) -> Path:
        moved.append(pid)
        return tmp_path / "gone" if len(moved) == 1 else tmp_path

    monkeypatch.setattr(cgroups, "of", own)
    cgroups.Moves.last = -cgroups.WARM
    for count in (1, 2):  # the first one fails
        cgroups.expect_move()
        wait_for(lambda: not cgroups.Moves.asking.locked())
        cgroups.Moves.last = time.monotonic() + 60
        cgroups.expect_move()
        assert moved == [os.getpid()] * count
        cgroups.Moves.last = -cgroups.WARM
    assert (tmp_path / "cgroup.procs").read_text() == "0"
