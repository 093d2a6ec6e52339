"""How much of the sessions disk each session may use, and how full the disk is.

One UID a session, so a user's quota is a session's. quotactl_fd(2), Linux 5.14. Where the kernel or
the file system keeps no quotas, sessions run without, and ``show`` tells so.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from errno import EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, ESRCH
from pathlib import Path

from serai.common import linux, sizes
from serai.runtime.settings import Disk

# linux/quota.h: QCMD(command, USRQUOTA); struct if_dqblk; space is counted in KiB.
_GET, _SET = 0x800007 << 8, 0x800008 << 8
_BLOCK = struct.Struct("=8QIxxxx")
_LIMITS = 1 | 4  # QIF_BLIMITS, QIF_ILIMITS
_KIB = 1024
_UNKNOWN = {EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, ESRCH}


@dataclass(frozen=True)
class Usage:
    """What a session uses and may use: bytes and files; a limit of 0 is none."""

    bytes: int
    bytes_limit: int
    files: int
    files_limit: int


@dataclass(frozen=True)
class Grant:
    """What each session may have of a disk of so many bytes; 0 is no limit, as to the kernel."""

    bytes: int
    files: int
    disk: int


class Level(Enum):
    """How full the sessions disk is."""

    FINE = "fine"
    LOW = "low"
    VERY_LOW = "very low"


def level(free: float, disk: Disk) -> Level:
    """What ``free`` percent of the sessions disk means."""
    if free < max(disk.reserve, disk.act_free):
        return Level.VERY_LOW
    return Level.LOW if free < disk.warn_free else Level.FINE


def disk_size(sessions: Path) -> int:
    """How large the disk is, in bytes."""
    disk = os.statvfs(sessions)
    return disk.f_frsize * disk.f_blocks


def free(sessions: Path) -> float:
    """How much of the disk is free, in percent."""
    disk = os.statvfs(sessions)
    return 100.0 * disk.f_bavail / max(disk.f_blocks, 1)


def free_files(sessions: Path) -> float:
    """How many more files it can have, in percent; all where it counts none."""
    disk = os.statvfs(sessions)
    return 100.0 * disk.f_favail / disk.f_files if disk.f_files else 100.0


def share(
    sessions: Path,
    uids: Collection[int],
    disk: Disk,
    own: Mapping[int, str] | None = None,
    *,
    left: int = 1,
) -> Grant | None:
    """Limit the sessions that can write, so that what all of them may take is there.

    ``own`` has, by UID, what a session is to have at most although there may be more for
    it. ``left`` parts are left over for the next ones. Returns what each may have; None where there
    are no quotas. Raises OSError.
    """
    used = []
    for uid in uids:
        if (found := usage(sessions, uid)) is None:
            return None
        used.append(found)
    whole = os.statvfs(sessions)
    size, taken = whole.f_frsize * whole.f_blocks, whole.f_frsize * (whole.f_blocks - whole.f_bfree)
    space = _part(disk.quota, disk.reserve, size, taken, [each.bytes for each in used], left=left)
    taken = whole.f_files - whole.f_ffree
    files = _part(
        disk.files, disk.reserve, whole.f_files, taken, [each.files for each in used], left=left
    )
    part = Grant(space, files, size)
    own = own or {}
    return part if all(limit(sessions, uid, part, own.get(uid, "")) for uid in uids) else None


def least(part: Grant, own: str) -> int:
    """The bytes of a part, or of a session's own limit if there is one and it is less."""
    limit = sizes.limit(own, part.disk) if own else None
    return part.bytes if limit is None else min(part.bytes or limit, limit)


def _part(
    text: str, reserve: int, whole: int, taken: int, used: Collection[int], *, left: int = 1
) -> int:
    """What each session may have; 0 is no limit, as it is to the kernel."""
    most = sizes.limit(text, whole)
    if most is None or not whole:
        return 0
    room = whole * (100 - reserve) // 100 - (taken - sum(used))
    return max(min(most, fair(used, room, left)), 1)


def fair(used: Collection[int], room: int, left: int = 1) -> int:
    """How much each of those who use so much may have, of ``room``, with ``left`` parts left over.

    Those are for the next sessions that start. Who uses more than a part keeps it and gets no
    more, and the others divide the rest: together they can never have more than ``room``.
    """
    parts = len(used) + left
    for each in sorted(used, reverse=True):
        if each * parts <= room:
            break
        room, parts = room - each, parts - 1
    return max(room, 0) // parts


def limit(sessions: Path, uid: int, part: Grant, own: str = "") -> bool:
    """Limit a session to a part, or to its ``own`` limit if that is less.

    False without quotas. Raises OSError.
    """
    wanted = _BLOCK.pack(-(-least(part, own) // _KIB), 0, 0, part.files, 0, 0, 0, 0, _LIMITS)
    return _call(sessions, _SET, uid, bytearray(wanted)) is not None


def usage(sessions: Path, uid: int) -> Usage | None:
    """What a session uses; None where there are no quotas, or nobody tells. Raises OSError."""
    try:
        found = _call(sessions, _GET, uid, bytearray(_BLOCK.size))
    except PermissionError:
        return None  # a container's supervisor may refuse the question
    if found is None:
        return None
    kib, _, space, files_limit, _, files, *_ = _BLOCK.unpack(found)
    return Usage(space, kib * _KIB, files, files_limit)


def _call(sessions: Path, command: int, uid: int, block: bytearray) -> bytes | None:
    folder = os.open(sessions, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.quotactl_fd(folder, command, uid, block)
        return bytes(block)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        error.filename = str(sessions)
        raise
    finally:
        os.close(folder)
