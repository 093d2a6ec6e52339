"""The root disk has the layout of the design."""

from __future__ import annotations

from serai.common.checks import Absent, Check, Finding, the
from serai.image.definition.definition import megabytes
from serai.image.verify.facts import Disk, Evidence, FirstBoot, Partition

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"  # UEFI 2.10, table 5.7
ROOT, EFI, BIOS_BOOT = 1, 15, 14  # partition numbers; Ubuntu's amd64 image also has 14
MIB = 1 << 20


def _root_disk(first: FirstBoot) -> Disk:
    for disk in first.facts.disks:
        if disk.name == first.facts.root.disk:
            return disk
    raise Absent(f"no disk {first.facts.root.disk} among the VM's")


def _partition(disk: Disk, number: int) -> Partition:
    for partition in disk.partitions:
        if partition.number == number:
            return partition
    raise Absent(f"{disk.name} has no partition {number}")


def _disk(evidence: Evidence) -> Finding:
    disk = _root_disk(the(evidence.first))
    wanted = megabytes(evidence.image.disk.size) * MIB
    problems = [] if disk.table == "gpt" else [f"its table is {disk.table or 'none'}, not gpt"]
    if disk.bytes != wanted:
        problems.append(f"it has {disk.bytes // MIB} MiB, not {wanted // MIB}")
    extra = {part.number for part in disk.partitions} - {ROOT, EFI, BIOS_BOOT}
    if extra:
        problems.append(f"partitions nobody asked for: {sorted(extra)}")
    return Finding(problems, f"GPT, {disk.bytes // MIB} MiB")


def _root(evidence: Evidence) -> Finding:
    root = the(evidence.first).facts.root
    problems = [] if root.fstype == "ext4" else [f"it is {root.fstype}"]
    if root.partition != ROOT:
        problems.append(f"it is on partition {root.partition} ({root.device})")
    return Finding(problems, f"ext4 on {root.device}")


def _esp(evidence: Evidence) -> Finding:
    partition = _partition(_root_disk(the(evidence.first)), EFI)
    size = partition.bytes / MIB
    problems = [] if partition.fstype == "vfat" else [f"it is {partition.fstype or 'unformatted'}"]
    if partition.type != ESP:
        problems.append(f"its type is {partition.type}, not the ESP's")
    if not 90 <= size <= 110:  # noqa: PLR2004 - Ubuntu's own have 99 (arm64) and 106 (amd64)
        problems.append(f"it has {size:.0f} MiB")
    return Finding(problems, f"vfat, {size:.0f} MiB")


def _grown(evidence: Evidence) -> Finding:
    first = the(evidence.first)
    disk, root = _root_disk(first), first.facts.root
    partition = _partition(disk, ROOT)
    problems = []
    rest = disk.bytes - partition.start - partition.bytes
    if rest > 2 * MIB:
        problems.append(f"{rest // MIB} MiB of the disk behind the partition are unused")
    if root.ext4 is None or partition.bytes - root.ext4.bytes > MIB:
        made = root.ext4.bytes // MIB if root.ext4 else 0
        problems.append(f"the file system has {made} of the partition's {partition.bytes // MIB}")
    return Finding(problems, f"{root.device_bytes // MIB} MiB")


CHECKS: tuple[Check[Evidence], ...] = (
    Check("disks", "the root disk is GPT and as large as defined", _disk),
    Check("root", "root is ext4 on partition 1", _root),
    Check("disks", "the ESP is vfat on partition 15, about 98 MiB", _esp),
    Check("root", "root has grown to the disk's end", _grown),
)
