"""The fuzzing of tests/support: what it must notice, it does."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import fuzzing
from tests.support.fuzzing import Watched, changed, fuzz

# Does what each line of its input says, and says so.
DAEMON = """
import sys, threading, time
kept = []
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""
HARMS = {
    "kept.append(open('/dev/null'))": "in vain",
    "kept.append(threading.Thread(target=time.sleep, args=(60,), daemon=True)); kept[-1].start()": (
        "in vain"
    ),
    "kept.append(b'x' * (64 << 20))": "has grown by",
    "print('Traceback (most recent call last):', file=sys.stderr, flush=True)": "Traceback",
    "sys.stdout.close(); sys.exit()": "is a zombie",
}
Told = list[tuple[str, object]]


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", DAEMON],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        tell(process, "pass")
        yield process
        process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    process.stdout.readline()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.1)
    monkeypatch.setattr(fuzzing, "SETTLE", 0.3)
    monkeypatch.setattr(fuzzing, "WARM", 0.0)
    monkeypatch.setattr(fuzzing, "SEED", "5")
    monkeypatch.setattr(fuzzing, "_FIRST", "")


def run(folder: Path, line: str) -> Told:
    """Fuzz a daemon that does ``line`` when all cases have been tried."""
    told: Told = []
    with daemon(folder) as process:
        watched = Watched(process.pid, folder / "log")
        fuzz(
            lambda _dice: tell(process, "pass"),
            watched,
            record=lambda key, value: told.append((key, value)),
            settle=lambda: tell(process, line),
        )
    return told


def test_a_daemon_that_stays_the_same_is_well(tmp_path: Path) -> None:
    told = dict(run(tmp_path, "pass"))
    assert told["seed"] == "5"
    assert isinstance(told["cases"], int)
    assert told["cases"] > 0


@pytest.mark.parametrize("line", HARMS)
def test_a_daemon_that_does_not_is_found(tmp_path: Path, line: str) -> None:
    with pytest.raises(AssertionError, match=HARMS[line]):
        run(tmp_path, line)


def test_a_finding_names_its_case_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def case(dice: random.Random) -> None:
        seen.append(dice.random())
        assert seen[-1] < 0.95, "found"

    monkeypatch.setattr(fuzzing, "SECONDS", 20.0)
    with pytest.raises(AssertionError, match=r"^seed 5:\d+: AssertionError: found") as caught:
        fuzz(case, record=lambda *_: None)
    value = seen[-1]
    number = str(caught.value).split(":")[1]
    monkeypatch.setattr(fuzzing, "_FIRST", number)
    with pytest.raises(AssertionError, match=f"^seed 5:{number}: "):
        fuzz(case, record=lambda *_: None)
    assert seen[-1] == value


def test_what_is_changed_depends_on_the_dice_alone() -> None:
    def some(seed: int) -> list[bytes]:
        dice = random.Random(seed)
        return [changed(dice, b"some bytes", [b"others"]) for _ in range(50)]

    assert some(1) == some(1) != some(2)
    assert len(set(some(1))) > 20
