"""Prepare the disk for /sessions: find it, format it if it is blank, check it, point at it.

Run once a boot, before sessions.mount, which mounts what /run/serai/session-disk points at. That
link, and not /dev/disk/by-label, says which disk it is: a session can write any block of its own
files, the disk's last ones too, and what libblkid finds there must not decide anything.

The disk is the one whose serial is 'sessions'; else the one that holds the file system 'sessions';
else the only blank one. A disk that holds anything else is refused and never written to.

Formatting survives a power cut at any point. A note on the root disk says which blank disk is
about to be formatted; the file system has a temporary label until it is complete; only then does it
get its own and the note goes. Nothing was ever stored on a disk that is in between.

With --look it changes nothing and prints 'disk' if there is one to use or one is mounted, else
'none'.

Exit status: 0, also without any disk for /sessions (the link tells); 1 if a disk was refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serai.common import files, proc
from serai.disk.choice import (
    NAME,
    UNFINISHED,
    Content,
    Disk,
    RefusedError,
    Signature,
    choose,
    judge,
)

MIB = 1 << 20
WAIT = 10.0  # seconds; a disk may be found a little later than the root disk (NVMe)
SAMPLES = 256

# Errors that e2fsck -p leaves behind (e2fsck(8)); below that it has mended what there was.
E2FSCK_FAILED = 4


@dataclass(frozen=True)
class Locations:
    """Where the kernel's and our own files are; tests have others."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    mounts: Path = Path("/proc/self/mountinfo")
    quotas: Path = Path("/proc/sys/fs/quota")
    link: Path = Path("/run/serai/session-disk")
    note: Path = Path("/var/lib/serai/session-disk.formatting")


# --- looking


def find(places: Locations) -> list[Disk]:
    """All whole disks that nobody uses: no loop, RAM or mapped devices, none read-only."""
    used = {each.device for each in proc.mounts(places.mounts.read_text())}
    found = []
    for block in sorted((places.sys / "block").iterdir()):
        size = int(_read(block / "size") or 0) * 512
        if not (block / "device").exists() or not size or _read(block / "ro") == "1":
            continue
        if block.name.startswith(("sr", "fd")) or _numbers(block) & used or _holders(block):
            continue
        serial = _read(block / "serial") or _read(block / "device" / "serial")
        found.append(inspect(places.dev / block.name, serial, size, places.note))
    return found


def inspect(path: Path, serial: str, size: int, note: Path) -> Disk:
    """What the disk at ``path`` holds."""
    signatures = _signatures(path)
    begun = _read(note) == _identity(serial, size)
    zeros = not signatures and _only_zeros(path, size)
    content, detail = judge(signatures, zeros=zeros, begun=begun)
    return Disk(path, serial, size, content, detail)


def _signatures(path: Path) -> list[Signature]:
    said = run("wipefs", "--no-act", "--json", path)
    entries = json.loads(said or "{}").get("signatures", [])
    return [
        Signature(entry["type"], int(entry["offset"], 16), entry.get("label") or "")
        for entry in entries
    ]


def _only_zeros(path: Path, size: int) -> bool:
    """Whether the disk's start, end and samples from all over it are zeros, as on a fresh disk."""
    with path.open("rb", buffering=0) as disk:
        return not any(
            os.pread(disk.fileno(), length, offset).strip(b"\0")
            for offset, length in _samples(size)
        )


def _samples(size: int) -> Iterator[tuple[int, int]]:
    yield from ((offset, MIB) for offset in range(0, min(size, 4 * MIB), MIB))
    yield max(0, size - MIB), MIB
    yield from ((size // SAMPLES * index, 4096) for index in range(SAMPLES))


def _numbers(block: Path) -> set[str]:
    """The device numbers of a disk and its partitions."""
    return {_read(path) for path in (block / "dev", *block.glob("*/dev"))} - {""}


def _holders(block: Path) -> bool:
    folder = block / "holders"
    return folder.is_dir() and any(folder.iterdir())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _identity(serial: str, size: int) -> str:
    return f"{serial or '-'} {size}"


def keeps_quotas(places: Locations) -> bool:
    """Whether the kernel can mount a file system that keeps quotas.

    It refuses to without quota_v2 (fs/ext4/super.c), a module that Ubuntu has in a package apart.
    """
    if not places.quotas.exists():
        return False
    return _run("modprobe", "--quiet", "quota_v2").returncode == 0


# --- doing


def make(disk: Disk, note: Path, *, quotas: bool) -> None:
    """Format a disk that never held anything."""
    say(f"formatting {disk.path}, which holds {disk.content.value}")
    note.parent.mkdir(parents=True, exist_ok=True)
    files.write(note, f"{_identity(disk.serial, disk.size)}\n".encode())
    # 2 % stay root's and the gate's (resgid= in its unit): the registry and the audit log still fit
    # when sessions have filled the disk.
    options = ["-q", "-F", "-t", "ext4", "-L", UNFINISHED, "-m", "2"]
    if quotas:
        options += ["-O", "quota", "-E", "quotatype=usrquota"]
    run("mke2fs", *options, disk.path)
    # Who knows a session's name may pass through; nobody can list the others.
    run("debugfs", "-w", "-R", "set_inode_field / mode 040711", disk.path)
    files.fsync(disk.path)
    run("e2label", disk.path, NAME)
    files.fsync(disk.path)
    note.unlink()
    files.fsync(note.parent)


def check(disk: Disk, *, quotas: bool) -> None:
    """Mend what a power cut left, and have quotas just if the kernel can. Raises RefusedError."""
    done = _run("e2fsck", "-p", disk.path)
    if done.returncode >= E2FSCK_FAILED:
        raise RefusedError(
            f"refused for /sessions: the file system on {disk.path} is damaged "
            f"({_last_line(done.stdout + done.stderr)}); run 'e2fsck -f {disk.path}'"
        )
    features = run("dumpe2fs", "-h", disk.path)
    has = any("quota" in line.split() for line in features.splitlines() if "features:" in line)
    if has != quotas:
        # Only the kernel's own books, which it makes anew: no session's files are touched.
        option = ("-Q", "usrquota") if quotas else ("-O", "^quota")
        say(f"turning user quotas {'on' if quotas else 'off'} on {disk.path}")
        done = _run("tune2fs", *option, disk.path)
        if done.returncode != 0:
            say(f"it stays as it is: {_last_line(done.stderr)}", level=4)


def run(*command: str | Path) -> str:
    """A program's output. Raises RefusedError with its last line if it fails."""
    done = _run(*command)
    if done.returncode != 0:
        said = _last_line(done.stderr or done.stdout)
        raise RefusedError(f"refused for /sessions: {command[0]} failed on {command[-1]}: {said}")
    return done.stdout


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", "it is not installed")


def say(text: str, *, level: int = 6) -> None:
    """One line for the journal, with its priority as sd-daemon(3) writes it."""
    print(f"<{level}>{text}", file=sys.stderr, flush=True)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


# --- the whole


def prepare(places: Locations, *, quotas: bool, wait: float = WAIT) -> Disk | None:
    """Have the link point at a disk that can be mounted; None without one. Raises RefusedError."""
    places.link.unlink(missing_ok=True)
    disk = _wait_for_disk(places, wait)
    if disk is None:
        return None
    if not quotas:
        say("this kernel keeps no user quotas (quota_v2): no session's use is limited", level=4)
    if disk.content is not Content.SESSIONS:
        make(disk, places.note, quotas=quotas)
    else:
        places.note.unlink(missing_ok=True)  # a power cut came just before its removal
        check(disk, quotas=quotas)
    places.link.parent.mkdir(parents=True, exist_ok=True)
    files.link(places.link, disk.path)
    return disk


def _wait_for_disk(places: Locations, wait: float) -> Disk | None:
    """The disk, as soon as there is one; what is wrong after ``wait`` seconds is wrong."""
    deadline = time.monotonic() + wait
    while True:
        try:
            disk = choose(find(places))
            if disk is not None or time.monotonic() >= deadline:
                return disk
        except RefusedError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


def look(places: Locations, *, container: bool, wait: float = WAIT) -> int:
    """Print whether there is a disk to use, 'disk' or 'none'; a container has none of its own."""
    try:
        there = os.path.ismount("/sessions") or (
            not container and _wait_for_disk(places, wait) is not None
        )
    except RefusedError as reason:
        print(reason, file=sys.stderr)
        return 1
    print("disk" if there else "none")
    return 0


def main() -> int:
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin')}:/usr/sbin:/sbin"
    places = Locations()
    if sys.argv[1:] == ["--look"]:
        # It sees its host's disks.
        container = _run("systemd-detect-virt", "--container", "--quiet").returncode == 0
        return look(places, container=container)
    if os.path.ismount("/sessions"):
        say("/sessions is mounted already")
        return 0
    try:
        disk = prepare(places, quotas=keeps_quotas(places))
    except RefusedError as reason:
        say(str(reason), level=3)
        return 1
    if disk is None:
        say("there is no disk for /sessions: attach a blank one and reboot", level=4)
    return 0
