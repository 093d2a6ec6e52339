"""Real Packer and QEMU: however a build ends, nothing it started outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serai.image.run import run
from tests.conftest import ROOT
from tests.support.waiting import wait_for

# A disk without an operating system: the machine runs, and its ssh never answers.
BUILD = """
import sys
from pathlib import Path
from serai.image import console
from serai.image.definition import definition
from serai.image.settings import Settings
from tests.support import packer_builds

folder = Path(sys.argv[1])
settings = Settings.of({"SERAI_CACHE": str(folder / "cache")})
with console.reported():
    image = definition.load(settings, "debian-12-amd64")
    packer_builds.build(image, settings, folder, lambda event: print(event, flush=True))
"""
DEADLINE = 60.0


@pytest.mark.parametrize(
    ("number", "status", "left"),
    [
        (signal.SIGINT, 130, 0),
        (signal.SIGTERM, 130, 0),
        (signal.SIGKILL, -signal.SIGKILL, 1),  # its folder, which the next build removes
    ],
)
def test_no_machine_outlives_the_build(
    tmp_path: Path, number: signal.Signals, status: int, left: int
) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "base.qcow2", "10G"])
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as build:
        wait_for(lambda: any("qemu-system" in line for line in processes(tmp_path)), DEADLINE)
        build.send_signal(number)
        assert build.wait(DEADLINE) == status
    wait_for(lambda: not processes(tmp_path), DEADLINE)
    assert len(list((tmp_path / "cache" / "work" / "debian-12-amd64").iterdir())) == left
    assert not (tmp_path / "result.qcow2").exists()


def processes(folder: Path) -> list[str]:
    """The command lines that name ``folder``."""
    lines = run(["ps", "-ww", "-eo", "args"]).stdout.splitlines()
    return [line for line in lines if str(folder / "cache") in line]
