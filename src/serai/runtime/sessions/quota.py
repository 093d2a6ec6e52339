"""How much of the sessions disk each session may use, and how full the disk is.

One UID a session, so a user's quota is a session's. quotactl_fd(2), Linux 5.14. Where the kernel or
the file system keeps no quotas, sessions run without, and ``show`` tells so.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import Enum
from errno import EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, ESRCH
from pathlib import Path

from serai.common import sizes, syscalls
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


class Level(Enum):
    """How full the sessions disk is."""

    FINE = "fine"
    LOW = "low"
    VERY_LOW = "very low"


def level(free: float, disk: Disk) -> Level:
    """What ``free`` percent of the sessions disk means."""
    if free < disk.act_free:
        return Level.VERY_LOW
    return Level.LOW if free < disk.warn_free else Level.FINE


def free(sessions: Path) -> float:
    """How much of the disk is free, in percent."""
    disk = os.statvfs(sessions)
    return 100.0 * disk.f_bavail / max(disk.f_blocks, 1)


def limit(sessions: Path, uid: int, disk: Disk) -> bool:
    """Limit a session as the policy says; False where there are no quotas. Raises OSError."""
    whole = os.statvfs(sessions)
    # To the kernel 0 is no limit.
    kib = -(-(sizes.limit(disk.quota, whole.f_blocks * whole.f_frsize) or 0) // _KIB)
    files = sizes.limit(disk.files, whole.f_files) or 0
    wanted = _BLOCK.pack(kib, 0, 0, files, 0, 0, 0, 0, _LIMITS)
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
        syscalls.quotactl_fd(folder, command, uid, block)
        return bytes(block)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        error.filename = str(sessions)
        raise
    finally:
        os.close(folder)
