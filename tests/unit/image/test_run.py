"""The wrapper for child processes: what it says when they fail, and that none outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serai.image import run
from serai.image.errors import BuildError
from tests.support.waiting import wait_for


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
    with pytest.raises(BuildError, match=r"did not end within 0\.1 s.*try again"):
        run.run(["sleep", "60"], timeout=0.1)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_one_that_says_too_much_is_ended(stream: str) -> None:
    with pytest.raises(BuildError, match="sh said more than 1 MiB and was ended"):
        run.run(["sh", "-c", f"yes >&{stream}"], captured=1 << 20, timeout=60)
    assert len(run.run(["sh", "-c", "yes | head -c 900000"], captured=1 << 20).stdout) == 900000


def test_what_it_is_told_and_what_it_says_may_both_be_long() -> None:
    text = "line\n" * 100_000
    assert run.run(["cat"], stdin=text).stdout == text
    assert run.run(["true"], stdin=text).stdout == ""


def test_a_pipe_that_a_grandchild_holds_is_not_waited_for() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(BuildError, match="did not end within 1 s"):
        run.run(["sh", "-c", "sleep 20 & echo started"], timeout=1)
    # One that reads on would read what a later program says on a descriptor of that number.
    assert set(threading.enumerate()) <= threads


def test_a_program_that_goes_on_talking_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is never taken from the pipe leaves it full: there is always something to read.
    read, piece = os.read, 1 << 16
    monkeypatch.setattr(os, "read", lambda file, n: b"." if n == piece else read(file, n))
    with pytest.raises(BuildError, match=r"did not end within 0\.5 s"):
        run.run(["yes"], timeout=0.5, captured=4 << 20)


def test_the_end_of_a_log_without_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LOG", 100_000)
    monkeypatch.setattr(run, "_LOG_KEPT", 1000)
    log = tmp_path / "serial.log"
    with log.open("ab") as guest, run.bounded(log, tmp_path / "none"):
        guest.write(b"first\n" + b"x" * 200_000 + b"last\n")
        guest.flush()
        wait_for(lambda: log.stat().st_size <= 100_000)
        guest.write(b"after\n")
    said = log.read_bytes()
    assert said.startswith(b"[what came before is cut off]\nxxx")
    assert said.endswith(b"last\nafter\n")
    assert len(said) < 1100


def test_what_is_told_of_a_line_without_end_is_short() -> None:
    assert len(run.last_lines("x" * 1_000_000)) == 600


def test_leaving_the_block_ends_the_program(tmp_path: Path) -> None:
    with run.started(["sleep", "60"], log=tmp_path / "log") as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_program_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    with run.started(stubborn, log=tmp_path / "log", grace=0.2) as process:
        wait_for((tmp_path / "log").read_text)
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
    # setpriv has done its part
    wait_for(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: _state(child) == "Z")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # it may go between the two
        return "Z"
