"""Units over D-Bus, with a real systemd: a user's manager in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_systemd import CGROUPS
from tests.support.fake_vm import CHECKOUT, PYTHON
from tests.support.waiting import listens, wait_for

SYSTEMD = Path("/lib/systemd/systemd")
NAMED = Path("/sys/fs/cgroup/systemd")
# It starts only where systemd seems to have booted the machine: sd_booted(3).
START = (
    'echo $$ >"$1/cgroup.procs"; echo $$ >"$2/cgroup.procs"; mount -t tmpfs tmpfs /run; '
    f"mkdir -p /run/systemd/system; exec {SYSTEMD} --user --log-target=console"
)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    """The XDG_RUNTIME_DIR of a running manager."""
    # Not named by our PID: that comes again, and a killed run leaves its directory.
    prefix = "serai-test-units-"
    cgroups = [Path(tempfile.mkdtemp(prefix=prefix, dir=mount)) for mount in (CGROUPS, NAMED)]
    units = tmp_path / "systemd/user"
    units.mkdir(parents=True)
    tmp_path.chmod(0o700)
    (units / "serai-session@.service").write_text(
        f"[Unit]\nCollectMode=inactive-or-failed\n{asserted(units)}\n"
        "[Service]\nType=exec\nExecStart=/bin/sleep 1000\n"
    )
    process = subprocess.Popen(
        ["/usr/bin/unshare", "-m", "--propagation", "private", "sh", "-c", START, "sh", *cgroups],
        env={"PATH": os.environ["PATH"], "HOME": "/root", "XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listens(tmp_path / "systemd/private") or process.poll() is not None)
        yield tmp_path
    finally:
        (cgroups[0] / "cgroup.kill").write_text("1")
        process.wait()
        wait_for(lambda: all(map(removed, cgroups)))


def asserted(units: Path) -> str:
    """What the real unit asserts, of the place that this manager looks at."""
    unit = (CHECKOUT / "src/serai/install/units/serai-session@.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("AssertPathExists=")]
    return line.replace("/run/systemd/system", str(units))


def removed(cgroup: Path) -> bool:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return not cgroup.exists()


def test_units_are_started_found_limited_and_stopped(runtime: Path) -> None:
    script = [PYTHON, "tests/support/use_systemd.py"]
    done = subprocess.run(
        [*script, runtime / "systemd/private", runtime / "systemd/user"],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{CHECKOUT}/src"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "ended with 'assert'" in seen["unlimited"]
    assert (seen["before"], seen["after"]) == ({}, {})
    assert (seen["same"], seen["running"], seen["again"]) == (True, True, True)
    assert seen["many"] == 20
    assert not seen["alive"]
    assert [seen[key] for key in ("served", "unserved", "not a session", "bound")] == [True] * 4
    assert seen["spared"]
    assert seen["own"] == [[64 << 20, 99, 500_000]] * 2
    assert seen["others"][0] == seen["others"][1]
    assert seen["others"][0][1:] == [8192, 2**64 - 1]
    stack = next(row for row in seen["limits"].splitlines() if row.startswith("Max stack size"))
    assert stack.split()[3:5] == ["8388608", "8388608"]
    assert "ended with 'failed'; see 'journalctl -u serai-session@broken.service'" in seen["error"]
