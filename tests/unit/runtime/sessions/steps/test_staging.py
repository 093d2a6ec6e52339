"""What arrives is put in place; files of jobs are made anew from what somebody hostile says."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.steps import homes, staging

ASKED = {"argv": ["true"], "request": "f" * 64, "started_at": 5.5}


def arrived(paths: Paths, jobs: dict[str, dict[str, Any]]) -> Path:
    """A session that waits to be put in place."""
    homes.prepare(paths)
    stage = staging.make(paths, os.getuid())
    (stage / "home").mkdir()
    (stage / "home/file").write_text("kept")
    (stage / "serai.json").write_text("{}")
    for job, made in jobs.items():
        (stage / "jobs" / job).mkdir(parents=True)
        for name, content in made.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (stage / "jobs" / job / name).write_text(text)
    (stage / "jobs").mkdir(exist_ok=True)
    return stage


def put(paths: Paths) -> None:
    asyncio.run(staging.place(paths, "one", os.getuid()))


def known(paths: Paths, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = paths.jobs / str(os.getuid()) / job
    status = folder / "status"
    ended = json.loads(status.read_text()) if status.exists() else {}
    return json.loads((folder / "job.json").read_text()), ended


def test_what_jobs_say_is_looked_at(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    stage = arrived(
        paths,
        {
            "a" * 12: {
                "job.json": {**ASKED, "boot": "b", "main": 1, "more": "x"},
                "status": {"status": 3, "signal": True, "reason": "r" * 999, "left": "x"},
                "log": "said",
            },
            "b" * 12: {"job.json": ASKED, "begun": " " * 100},
            "c" * 12: {"job.json": {**ASKED, "argv": [1]}, "log": "x"},
            "d" * 12: {"job.json": "[" * 100000, "log": "x"},
            "e" * 12: {"job.json": {**ASKED, "started_at": 1e300}, "status": "no JSON"},
            "f" * 12: {"log": "x"},
        },
    )
    put(paths)
    assert (paths.home("one") / "file").read_text() == "kept"
    assert {each.name[0] for each in (paths.jobs / str(os.getuid())).iterdir()} == set("abe")
    asked, ended = known(paths, "a" * 12)
    assert asked == {**ASKED, "boot": "", "main": 0}
    assert ended == {"status": 3, "reason": "r" * staging.MOST_REASON}
    assert (paths.jobs / str(os.getuid()) / ("a" * 12) / "log").read_text() == "said"
    assert known(paths, "b" * 12)[1] == {"reason": staging.MOVED}
    assert known(paths, "e" * 12) == ({**ASKED, "started_at": 0.0, "boot": "", "main": 0}, {})
    assert not stage.exists()
    put(paths)  # again, as after a crash


def test_it_is_put_in_nobodys_place(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    stage = arrived(paths, {})
    (paths.home("one") / "theirs").mkdir(parents=True)
    with pytest.raises(SeraiError, match="cannot put the home at"):
        put(paths)
    assert (stage / "home/file").exists()


def test_what_was_cut_off_is_removed(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    stage = arrived(paths, {"a" * 12: {"log": "x"}})
    asyncio.run(staging.clear(paths, os.getuid()))
    asyncio.run(staging.clear(paths, os.getuid()))
    assert not stage.exists()
