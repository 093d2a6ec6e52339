"""The wrapper for child processes: what it says when they fail, and that none outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serai.image import run
from serai.image.errors import BuildError


def test_output_comes_back() -> None:
    assert run.run(["echo", "two words"]).stdout == "two words\n"


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(BuildError, match="sgdiskx is not installed; run 'make setup', or install"):
        run.tool("sgdiskx")


@pytest.mark.parametrize("name", ["qemu-system-x86_64", "sgdisk", "mcopy", "mmdebstrap", "packer"])
def test_a_missing_tool_names_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "search_path", lambda: "/nonexistent")
    with pytest.raises(BuildError, match=f"install the package {run.PACKAGES.get(name, name)}"):
        run.tool(name)


def test_a_failure_tells_the_last_lines() -> None:
    with pytest.raises(BuildError, match=r"sh failed with status 3: one \| two"):
        run.run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])


def test_a_failure_into_a_log_tells_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"broken; details: {tmp_path / 'log'}"):
        run.run(["sh", "-c", "echo broken; exit 1"], log=tmp_path / "log")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(BuildError, match=r"did not end within 0\.1 s"):
        run.run(["sleep", "60"], timeout=0.1)


def test_leaving_the_block_ends_the_program(tmp_path: Path) -> None:
    with run.started(["sleep", "60"], log=tmp_path / "log") as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_program_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    with run.started(stubborn, log=tmp_path / "log", grace=0.2) as process:
        deadline = time.monotonic() + 10
        while not (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
    assert process.returncode == -signal.SIGKILL


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serai.image import run\n"
        "with run.started(['sleep', '60'], log=Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/comm").read_text() != "sleep\n":  # setpriv has done its part
        assert time.monotonic() < deadline
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() < deadline, "the child is still there"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
