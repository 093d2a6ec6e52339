"""Folders of the host that a hypervisor shares with the VM: mounted below /mnt/host, by their tag.

``share DEVICE`` runs once for every 9p or virtiofs device that udev sees (role ``shares``). Where
there is none, nothing runs. /etc/serai/shares.toml says what a tag is for; a 9p device names its
tag itself, a virtiofs device does so from Linux 6.9 on and before only tags of that file are tried.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serai.common import tables
from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.runtime.folders import path_roles

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
KINDS = {"0x0009": "9p", "0x001a": "virtiofs"}  # virtio 1.2, 5: device types
WAIT = 5.0  # seconds; the driver may be loaded a little later than the device appears

# 9p: cache=none, because the host changes files meanwhile, and its other choices show stale ones or
# write late; what sessions map into memory is bindfs' page cache. msize: one request for each
# of 128 KiB that bindfs makes, and for its header.
OPTIONS = {
    "9p": "trans=virtio,version=9p2000.L,msize=135168,cache=none",
    "virtiofs": "",
}


def _attachable(role: str) -> str:
    if role and (role not in path_roles.ROLES or not path_roles.ROLES[role].attachable):
        raise ValueError(f"no directory can be attached as {role!a}")
    return role


@dataclass(frozen=True)
class Share:
    """The purpose of a tag."""

    role: str = setting("", "a path role", parse=_attachable)
    writable: bool | None = setting(
        None, "whether sessions may write; the default is the path role's, or true without one"
    )
    host_path: str = setting("", "its directory on the host, as the person knows it")

    def __post_init__(self) -> None:
        if self.writable is None:
            usual = path_roles.ROLES[self.role].writable if self.role else True
            object.__setattr__(self, "writable", usual)


@dataclass(frozen=True)
class Shares:
    """The file: a table for each tag."""

    shares: Mapping[str, Share] = setting(dict, "what each tag is for")

    def __post_init__(self) -> None:
        for tag in self.shares:
            if not TAG.fullmatch(tag):
                raise ValueError(f"{tag!a} is no tag: up to 31 letters, digits, '.', '_' and '-'")


@dataclass(frozen=True)
class Places:
    """Where devices are seen and shares are mounted; tests have others."""

    settings: Path = Path("/etc/serai/shares.toml")
    top: Path = Path("/mnt/host")
    virtiofs: Path = Path("/sys/fs/virtiofs")


def load(path: Path) -> Mapping[str, Share]:
    """The shares that the TOML file ``path`` names, by tag; none if it is not there.

    Raises SeraiError naming the file and the key for anything it does not understand.
    """
    return tables.load(Shares, path, "the shares in", absent=Shares()).shares


def host_path(path: str, shares: Mapping[str, Share], top: Path = Places.top) -> str:
    """What the person calls ``path``, a folder in a share; '' where nobody said."""
    try:
        tag, *below = PurePosixPath(path).relative_to(top).parts
    except ValueError:
        return ""
    found = shares.get(tag, Share()).host_path
    return str(PurePosixPath(found, *below)) if found else ""


def candidates(device: Path, shares: Mapping[str, Share], places: Places, wait: float) -> list[str]:
    """The tags that ``device`` may have: one, or those of the settings that might be its."""
    kind = _kind(device)
    if kind == "9p":
        return [_own_tag(device, wait)]
    for folder in places.virtiofs.glob("*"):
        if (folder / "device").resolve() == device:
            return [_text(folder / "tag")]
    return [tag for tag in shares if not os.path.ismount(places.top / tag)]


def mount(device: Path, shares: Mapping[str, Share], places: Places, wait: float = WAIT) -> str:
    """Mount what ``device`` shares, unless it is; returns its tag. Raises SeraiError."""
    kind = _kind(device)
    problem = "it has no tag of the settings"
    with _locked(places.top):
        for tag in candidates(device, shares, places, wait):
            if not TAG.fullmatch(tag):
                raise SeraiError(f"the {kind} share {tag[:64]!a} is not mounted: that is no tag")
            target = places.top / tag
            if os.path.ismount(target):
                return tag
            target.mkdir(exist_ok=True)
            words = command(kind, tag, target, shares.get(tag, Share()))
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return tag
            problem = " ".join(done.stderr.split())
            with suppress(OSError):  # somebody may keep files there
                target.rmdir()
    hint = f"name its tag in {places.settings}" if kind == "virtiofs" else ""
    raise SeraiError(f"a {kind} share is not mounted: {problem}", hint)


@contextmanager
def _locked(top: Path) -> Iterator[None]:
    """Let one process mount at a time: two devices may each try the same tags."""
    top.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def command(kind: str, tag: str, target: Path, share: Share) -> list[str]:
    """mount(8) for one share: nothing in it is a device, or gives rights."""
    options = ["nosuid", "nodev", "noatime", "rw" if share.writable else "ro"]
    options += [OPTIONS[kind]] if OPTIONS[kind] else []
    return ["mount", "-t", kind, "-o", ",".join(options), tag, str(target)]


def _kind(device: Path) -> str:
    found = KINDS.get(_text(device / "device"))
    if found is None:
        raise SeraiError(f"{device} is no share of the host")
    return found


def _own_tag(device: Path, wait: float) -> str:
    """What a 9p device says its tag is, as soon as its driver is there."""
    deadline = time.monotonic() + wait
    while not (device / "mount_tag").exists():
        if time.monotonic() > deadline:
            raise SeraiError("a 9p share is not mounted: the kernel has no driver 9pnet_virtio")
        time.sleep(0.05)
    # The kernel ends it with a NUL.
    return _text(device / "mount_tag")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip("\0\n ")
    except OSError:
        return ""


def main() -> int:
    places = Places()
    try:
        device = Path(sys.argv[1]).resolve()
        tag = mount(device, load(places.settings), places)
    except SeraiError as error:
        print(f"<3>{error}", file=sys.stderr)
        return 1
    print(f"<6>{tag} of the host is at {places.top / tag}", file=sys.stderr)
    return 0
