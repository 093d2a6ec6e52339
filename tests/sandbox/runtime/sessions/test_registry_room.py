"""The registry opens on a disk whose inodes sessions have used up, as they can without quotas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SCRIPT = """
import os, sys
from pathlib import Path
from serai.runtime.sessions.registry import Registry
from serai.runtime.sessions.states import State

place = Path(sys.argv[1])
path = place / "registry.sqlite"

def fill():
    try:
        for number in range(10_000):
            (place / f"{os.urandom(8).hex()}").touch()
    except OSError:
        assert os.statvfs(place).f_ffree == 0

Registry(path).close()
for _ in range(3):  # an upgrade, and another one
    for spare in place.glob("*-spare") if sys.argv[2:] else ():
        spare.unlink()
    fill()
    registry = Registry(path)
    registry.add(None, {}, 0.0)
    registry.close()
registry = Registry(path)
print(len(list(registry.all())))
"""


def opened(folder: Path, *without: str) -> subprocess.CompletedProcess[str]:
    """Fill a file system, and use a registry in it: three times."""
    (folder / "place").mkdir()
    with (folder / "image").open("wb") as file:
        file.truncate(8 << 20)
    mount = (
        'mke2fs -q -F -t ext4 -N 64 "$0" && mount -o loop "$0" "$1" && exec "$2" -c "$3" "$1" $4'
    )
    words = [str(folder / "image"), str(folder / "place"), sys.executable, SCRIPT, *without]
    done = subprocess.run(
        ["/usr/bin/unshare", "-m", "--propagation", "private", "sh", "-c", mount, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if "failed to setup loop device" in done.stderr:
        pytest.skip("there are no loop devices here")
    return done


def test_the_registry_opens_where_sessions_have_used_up_the_inodes(tmp_path: Path) -> None:
    done = opened(tmp_path)
    assert done.stdout == "3\n", done.stderr


def test_without_spare_files_it_does_not(tmp_path: Path) -> None:
    assert "unable to open database file" in opened(tmp_path, "without").stderr
