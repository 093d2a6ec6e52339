"""The audit log on a disk that sessions have filled to its last byte and inode."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serai.disk import prepare
from serai.disk.choice import Content, Disk
from tests.support.fake_vm import CHECKOUT, PYTHON

SIZE = 32 << 20
GATE, SESSION = 8, 2000  # a group that every machine has (mail) stands for the gate's

# In a mount namespace of its own: the gate has some history, then a session takes all that is left,
# again and again.
SCRIPT = """
import json, os, subprocess, sys
from pathlib import Path
from serai.gate.audit import verify, writer

image, place, gate, session = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
subprocess.run(["mount", "-o", "loop", image, place], check=True)
if sys.argv[5] == "reserve":  # as serai-gate.service does
    subprocess.run(["mount", "-o", f"remount,resgid={gate}", place], check=True)
for name, owner in (("log", gate), ("home", session)):
    (place / name).mkdir()
    os.chown(place / name, owner, owner)

def in_child(uid, work):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def fill():
    (place / "home/junk").touch()
    try:
        for number in range(100_000):
            os.close(os.open(place / f"home/{number}", os.O_CREAT | os.O_EXCL))
    except OSError:
        pass
    for step in (1 << 20, 4096, 1):
        try:
            with open(place / "home/junk", "ab", buffering=0) as junk:
                while junk.write(b"x" * step):
                    pass
        except OSError:
            pass

def write():
    log = writer.Log(place / "log", 100_000, 8)
    refused = {}
    for number in range(12_000):
        if number % 1000 == 0:
            in_child_of_root()
        try:
            log.append({"event": "decision", "session": "a"})
        except OSError as error:
            refused[str(error)] = refused.get(str(error), 0) + 1
    log.close()
    report = verify.verify(place / "log")
    found = {"refused": refused, "problem": report.problem, "last": report.last}
    print(json.dumps(found), flush=True)

asks, answers = os.pipe(), os.pipe()

def in_child_of_root():
    os.write(asks[1], b"x")
    os.read(answers[0], 1)

pid = os.fork()
if pid == 0:
    os.close(asks[0])
    os.close(answers[1])
    in_child(gate, write)
    os._exit(0)
os.close(asks[1])
while os.read(asks[0], 1):
    in_child(session, fill)
    full = os.statvfs(place)
    assert full.f_bavail < 16 and full.f_ffree < 16, full
    os.write(answers[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
"""


def written(folder: Path, how: str = "") -> dict[str, Any]:
    """What a gate could note down, and whether its log is whole."""
    where = [str(folder / "image"), "/mnt", str(GATE), str(SESSION), how]
    done = subprocess.run(
        ["/usr/bin/unshare", "-m", "--propagation", "private", PYTHON, "-c", SCRIPT, *where],
        cwd=CHECKOUT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": f"{CHECKOUT}/src"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "failed to setup loop device" in done.stderr:
        pytest.skip("there are no loop devices here")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A sessions disk, as a machine's first boot makes it."""
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, SIZE)
    made = Disk(image, "", SIZE, Content.BLANK)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    prepare.make(made, tmp_path / "note", quotas=False)
    return made


def test_every_decision_is_noted_on_a_disk_that_sessions_have_filled(
    disk: Disk, tmp_path: Path
) -> None:
    seen = written(tmp_path, "reserve")
    assert (seen["refused"], seen["problem"]) == ({}, "")
    assert seen["last"] > 12_000


def test_the_gates_unit_asks_for_the_reserve() -> None:
    unit = (CHECKOUT / "src/serai/install/units/serai-gate.service").read_text()
    assert "mount -o remount,resgid=$$(id -g serai-gate) /sessions" in unit


def test_without_a_reserve_for_the_gate_it_is_not(disk: Disk, tmp_path: Path) -> None:
    assert "No space left" in str(written(tmp_path)["refused"])
