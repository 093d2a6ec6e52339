"""A disk of which nothing is to be told: its root's files, and the disk itself."""

from __future__ import annotations

from pathlib import Path

from serai.image.run import run
from serai.image.verify.facts import Shipped

PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
CLEAN = Shipped(
    machine_id="uninitialized",
    dbus_machine_id="",
    host_keys=[],
    logs=[],
    homes=[],
    apt=[],
    cloud_init=[],
    temporary=[],
    random_seeds=[],
    mentions=[],
    sudoers=[],
)


def clean(root: Path) -> Path:
    """The parts of a clean image's root that are looked at."""
    for path, content in {
        "etc/machine-id": "uninitialized\n",
        "etc/passwd": PASSWD,
        "etc/ssh/sshd_config": "UsePAM yes\n",
        "etc/sudoers.d/README": "# rules go here\n",
        "root/.bashrc": "# ~/.bashrc\n",
        "root/.ssh/authorized_keys": "",
        "var/lib/apt/lists/lock": "",
        "var/log/dpkg.log": "",
        "var/log/lastlog": "\0" * 4096,
    }.items():
        put(root, path, content)
    for folder in ("home", "tmp", "var/lib/cloud/seed", "var/lib/dbus", "var/log/apt", "var/tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    return root


def put(root: Path, path: str, content: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)


def a_disk(folder: Path, root: Path) -> Path:
    """A disk with ``root`` on partition 1."""
    disk = folder / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(64 << 20)
    run(["sgdisk", "-n", "1:2048:0", disk])
    run(["mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "offset=1048576", disk, "60M"])
    return packed(disk)


def packed(raw: Path) -> Path:
    """The raw disk as a qcow2, which is what is read."""
    target = raw.with_suffix(".qcow2")
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target])
    return target
