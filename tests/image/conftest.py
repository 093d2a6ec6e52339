"""One image, built once, for all tests that need a finished one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serai.image import build, definition, plan
from serai.image.checkout import BESIDE
from serai.image.definition import Image
from serai.image.settings import Settings
from serai.image.verify import REPORT, verify

DEADLINE = 3600.0  # seconds; the build and the verification of an emulated machine
STARTED = time.time()


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The person's own: an image that is built already is not built again."""
    return Settings.of()


@pytest.fixture(scope="session")
def image(settings: Settings) -> Image:
    """This machine's own architecture, from a Debian mirror alone."""
    return definition.load(settings, definition.rehearsal())


@pytest.fixture(scope="session")
def built(settings: Settings, image: Image) -> Path:
    """The folder of the finished image; what builds it beside us is waited for."""
    folder = plan.make(settings, image).folder
    wait_for_beside(folder.exists)
    # Not built again to be sure: verification goes on beside us.
    return folder if folder.exists() else build.build(settings, image.name)


@pytest.fixture(scope="session")
def report(settings: Settings, image: Image, built: Path) -> dict[str, Any]:
    """What verify.json says; an image is verified once a run."""
    wait_for_beside(lambda: False)
    path = built / REPORT
    if BESIDE not in os.environ or not path.exists() or path.stat().st_mtime < STARTED:
        verify(settings, image, built)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def wait_for_beside(enough: Callable[[], bool]) -> None:
    """Wait until the process beside us has done ``enough``, or has ended."""
    pid, until = os.environ.get(BESIDE), time.monotonic() + DEADLINE
    while pid and not enough() and running(int(pid)):
        assert time.monotonic() < until, f"process {pid} does not come to an end"
        time.sleep(0.2)


def running(pid: int) -> bool:
    """Whether a process has not ended; one that only its parent has to wait for has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
