"""Whether a VM is well, by what was seen; each sign has something that makes it ill."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.common import linux
from serai.common.paths import Paths
from serai.runtime.sessions import health
from serai.runtime.sessions.health import DEGRADED, HEALTHY, UNHEALTHY
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota
from serai.runtime.settings import Disk

NOW = health.EARLIEST + 1.0
POOL = {"wanted": 4, "ready": 1, "problem": None}


def meminfo(available: int) -> str:
    return f"MemTotal: 1000000 kB\nMemAvailable: {available} kB\n"


@pytest.mark.parametrize(
    ("sign", "status"),
    [
        (health.gate(""), HEALTHY),
        (health.gate("it is gone"), UNHEALTHY),
        (health.audit(""), HEALTHY),
        (health.audit("its disk is full"), UNHEALTHY),
        (health.audit(None), DEGRADED),
        (health.memory(meminfo(500_000)), HEALTHY),
        (health.memory(meminfo(90_000)), DEGRADED),
        (health.memory(meminfo(10_000)), UNHEALTHY),
        (health.versions("2", "2", "2"), HEALTHY),
        (health.versions("2", None, ""), HEALTHY),
        (health.versions("1", "1", "2"), DEGRADED),
        (health.versions("2", "1", "2"), DEGRADED),
        (health.versions("2", "", "2"), DEGRADED),
        (health.clock(NOW, True), HEALTHY),
        (health.clock(NOW, None), HEALTHY),
        (health.clock(NOW, False), DEGRADED),
        (health.clock(0, True), UNHEALTHY),
        (health.pool(POOL), HEALTHY),
        (health.pool({**POOL, "problem": "no memory"}), DEGRADED),
    ],
)
def test_each_sign_is_judged(sign: health.Sign, status: str) -> None:
    assert sign.status == status, sign
    assert sign.detail


def test_an_operation_that_takes_too_long_is_told() -> None:
    quick = record(goal=State.STOPPED, changed_at=NOW - 1)
    slow = record(goal=State.STOPPED, changed_at=NOW - health.STUCK - 1)
    done = record(goal=None, changed_at=0)
    assert health.sessiond([quick, done], NOW).status == HEALTHY
    assert health.sessiond([quick, slow], NOW).status == DEGRADED
    assert health.sessiond([], NOW).detail == "0 of 0 sessions run"


def record(**facts: Any) -> Record:
    return cast(Record, SimpleNamespace(name="s", state=State.READY, **facts))


@pytest.mark.parametrize(
    ("free", "files", "status"),
    [
        (50.0, 50.0, HEALTHY),
        (10.0, 50.0, DEGRADED),
        (50.0, 10.0, DEGRADED),
        (3.0, 50.0, UNHEALTHY),
        (50.0, 3.0, UNHEALTHY),
    ],
)
def test_the_disk_is_judged_by_the_settings(
    free: float, files: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "free", lambda _: free)
    monkeypatch.setattr(quota, "free_files", lambda _: files)
    assert health.disk(tmp_path, Disk()).status == status


def test_a_disk_on_which_room_is_made_is_only_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "free", lambda _: 18.0)
    assert health.disk(tmp_path, Disk(act_free=20)).status == DEGRADED


def test_a_disk_that_is_read_only_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(os.statvfs(tmp_path))
    found[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
    assert "read-only" in health.disk(tmp_path, Disk()).detail


@pytest.mark.parametrize(("free", "status"), [(50, HEALTHY), (5, DEGRADED), (1, UNHEALTHY)])
def test_other_file_systems_are_looked_at(
    free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "free", lambda _: free)
    assert health.room("run", tmp_path).status == status


def test_the_worst_sign_decides() -> None:
    signs: list[Any] = [health.Sign("a"), health.Sign("b", DEGRADED)]
    assert health.worst(signs) == DEGRADED
    assert health.worst([*signs, health.Sign("c", UNHEALTHY)]) == UNHEALTHY


def test_the_installed_version_is_read_from_the_file(tmp_path: Path) -> None:
    assert health.installed(Paths(tmp_path)) == ""
    folder = tmp_path / "usr/lib/serai/python/serai"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        (Path(health.__file__).parents[2] / "__init__.py").read_text()
    )
    from serai import __version__  # noqa: PLC0415

    assert health.installed(Paths(tmp_path)) == __version__


def test_the_kernel_says_whether_the_clock_is_kept() -> None:
    assert linux.clock_synchronised() in (True, False, None)
