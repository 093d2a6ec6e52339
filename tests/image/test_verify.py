"""The finished image passes, and an image with real faults does not.

The second one is booted as a person does it, so that one boot shows what `invoke boot` does too.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serai.image import checks, digest, offline, probe, shipped
from serai.image.definition import Image
from serai.image.facts import Evidence, Facts, Machine
from serai.image.run import run

ABSENT = "not part of this test"
BROKEN_UNIT = """[Unit]
Description=A service that fails
[Service]
Type=oneshot
ExecStart=/bin/false
"""
# `invoke boot --copy PATH --run COMMAND`, but of any disk.
BOOT = """
import sys
from pathlib import Path
from serai.image import definition
from serai.image.boot import boot
from serai.image.settings import Settings
settings = Settings.of()
name, disk, path, command = sys.argv[1:]
image = definition.load(settings, name)
sys.exit(boot(settings, image, Path(disk), run=command, copy=[Path(path)], bus="virtio"))
"""
STRANGER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ stranger\n"


@pytest.fixture(scope="module")
def faulty(image: Image, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built image with faults written into its root file system; debugfs(8)."""
    folder = tmp_path_factory.mktemp("faulty")
    disk = folder / "disk.raw"
    run(["qemu-img", "convert", "-O", "raw", built / f"{image.name}.qcow2", disk])
    with offline.opened(disk, folder) as root:
        passwd = root.read("/etc/passwd")
        offset = root.offset
    commands = [
        put(folder, "/etc/systemd/system/broken.service", BROKEN_UNIT),
        "symlink /etc/systemd/system/multi-user.target.wants/broken.service ../broken.service",
        "rm /etc/passwd",
        put(folder, "/etc/passwd", passwd + "serai-build:x:1234:100::/nonexistent:/bin/sh\n"),
        "set_inode_field /usr/bin/bwrap mode 0104755",
        put(folder, "/var/log/build.log", "built by somebody\n"),
        "mkdir /root/.ssh",
        put(folder, "/root/.ssh/authorized_keys", STRANGER),
    ]
    run(["debugfs", "-w", "-f", "-", f"{disk}?offset={offset}"], stdin="\n".join(commands) + "\n")
    return disk


def put(folder: Path, path: str, content: str) -> str:
    """The debugfs command that makes a file with this content."""
    source = folder / path.replace("/", "_")
    source.write_text(content)
    source.chmod(0o644)
    return f"write {source} {path}"


@dataclass(frozen=True)
class Boot:
    """How a boot of the faulty image with a command went; ``wrote`` is whether to the image."""

    done: subprocess.CompletedProcess[str]
    wrote: bool


@pytest.fixture(scope="module")
def boot(image: Image, faulty: Path) -> Boot:
    """It prints a file's content, who it is, how the boot went, the seeded key, and the facts."""
    folder = faulty.parent / "a folder"
    folder.mkdir()
    (folder / "file").write_text("carried\n")
    (folder / "probe.py").write_text(Path(str(probe.__file__)).read_text())
    there = shlex.quote(f"/root/{folder.name}")
    # sessiond comes up beside ssh, but the command finds a boot that has finished.
    ready = "serai list >/dev/null && systemctl is-system-running"
    key = "grep -o 'ssh-ed25519.*' /var/lib/cloud/instance/user-data.txt"
    command = f"cat {there}/file; id -un; {ready}; {key}; python3 {there}/probe.py"
    command += "; echo aside >&2; exit 7"
    before = faulty.stat().st_mtime_ns
    done = run([sys.executable, "-c", BOOT, image.name, faulty, folder, command], check=False)
    return Boot(done, wrote=faulty.stat().st_mtime_ns != before)


def test_boot_runs_a_command_with_files(image: Image, boot: Boot) -> None:
    assert boot.done.returncode == 7, boot.done.stderr
    assert boot.done.stdout.splitlines()[-5:-2] == ["carried", "root", "degraded"]
    assert f"{image.name} is degraded" in boot.done.stderr
    assert boot.done.stderr.endswith("aside\n")
    assert not boot.wrote, "the disk is only read"


def test_real_faults_turn_their_checks_red(
    image: Image, faulty: Path, boot: Boot, tmp_path: Path
) -> None:
    key, facts = boot.done.stdout.splitlines()[-2:]
    told = Facts.model_validate_json(facts)
    seen = Machine(facts=told, seconds=0.0, clock=told.system.now, key=key)
    evidence = Evidence(
        image=image,
        first=seen,
        second=ABSENT,
        foreign=ABSENT,
        alone=ABSENT,
        runtime=ABSENT,
        shipped=shipped.gather(faulty, tmp_path),
        digests=ABSENT,
        foreign_disk=ABSENT,
    )
    red = {
        result.name: result.detail
        for result in checks.judge(evidence, {})
        if not result.ok and ABSENT not in result.detail
    }
    assert red == {
        "it reaches multi-user, no unit failed": "first boot: broken.service failed",
        "bwrap has no rights of its own": "it is setuid or setgid (4755)",
        "nothing is left of the build's user": (
            "/etc/passwd names serai-build; serai-build has an account after booting"
        ),
        "only the seeded key lets somebody in": (
            "/root/.ssh/authorized_keys holds a key that nobody seeded"
        ),
        "no shell history, key or file of the build is in a home": (
            "left: /root/.ssh/authorized_keys"
        ),
        "no logs are shipped": "left: /var/log/build.log",
    }


def test_the_built_image_passes_every_check(
    image: Image, built: Path, report: dict[str, Any]
) -> None:
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["passed"] == len(checks.CHECKS)
    disk = f"{image.name}.qcow2"
    sums = (built / "SHA256SUMS").read_text().split()
    assert digest.of_file(built / disk) == sums[sums.index(disk) - 1]
