"""The finished image passes, and an image with real faults does not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from serai.image import checks, digest, offline, shipped, verify
from serai.image.definition import Image
from serai.image.facts import Evidence
from serai.image.facts import Machine as Seen
from serai.image.machine import booted
from serai.image.run import run
from serai.image.settings import Settings

ABSENT = "not part of this test"
BROKEN_UNIT = """[Unit]
Description=A service that fails
[Service]
Type=oneshot
ExecStart=/bin/false
"""
STRANGER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ stranger\n"


def test_the_built_image_passes_every_check(
    image: Image, built: Path, report: dict[str, Any]
) -> None:
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["passed"] == len(checks.CHECKS)
    disk = f"{image.name}.qcow2"
    sums = (built / "SHA256SUMS").read_text().split()
    assert digest.of_file(built / disk) == sums[sums.index(disk) - 1]


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


def test_real_faults_turn_their_checks_red(
    settings: Settings, image: Image, faulty: Path, tmp_path: Path
) -> None:
    at_rest = shipped.gather(faulty, tmp_path)
    with booted(image, faulty, settings=settings, work=tmp_path / "work") as machine:
        seen = Seen(
            facts=verify.probed(machine),
            seconds=machine.boot_seconds,
            clock=time.time(),
            key=machine.ssh.key.with_suffix(".pub").read_text(),
        )
    evidence = Evidence(
        image=image,
        first=seen,
        second=ABSENT,
        foreign=ABSENT,
        alone=ABSENT,
        runtime=ABSENT,
        shipped=at_rest,
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
