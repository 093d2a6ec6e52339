"""Serves a folder with other owners where the kernel can't map them: a program of its own.

bindfs works with paths, as root, in a folder that hostile payloads write to at the same time. So it
gets a root in which there is nothing but that folder: a symlink that appears at the wrong moment
leads nowhere. What it mounts is in its own mount namespace, from which it is taken (mounts) and
with which it ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # started by its path, so that Python finds nothing but this package
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))  # noqa: PTH120

from serai.common import stdio
from serai.runtime.folders import mounts

SOURCE, TARGET = "/source", "/target"
CAPABILITIES = ("SYS_ADMIN", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID")


def program(path: str, uid: int, place: str, *, writable: bool) -> list[str]:
    """The command line that serves ``path`` for ``uid``; ``place`` is an empty folder to use."""
    plan = json.dumps([path, uid, place, writable])
    return [sys.executable, "-I", "-S", "-X", "utf8", __file__, plan]


def command(source: str, owner: tuple[int, int], uid: int, *, writable: bool) -> list[str]:
    """bubblewrap and bindfs. What ``owner`` has is the session's; what it makes is ``owner``'s."""
    (user, group), read_only = owner, [] if writable else ["ro"]
    return [
        *("bwrap", "--die-with-parent", "--new-session", "--unshare-net", "--unshare-ipc"),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"),
        *("--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin"),
        *("--dir", "/dev", "--dev-bind", "/dev/fuse", "/dev/fuse", "--dir", TARGET),
        *("--bind" if writable else "--ro-bind", source, SOURCE),
        *("--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin", "--chdir", "/"),
        *("--cap-drop", "ALL", *_each("--cap-add", [f"CAP_{name}" for name in CAPABILITIES])),
        *("--", "bindfs", "-f", f"--map={user}/{uid}:@{group}/@{uid}"),
        # big_writes: libfuse 2, which bindfs is built with, else writes pages of 4 KiB one by one.
        *("-o", ",".join(["big_writes", "nosuid", "nodev", "fsname=serai", *read_only])),
        *(SOURCE, TARGET),
    ]


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def main(plan: str) -> None:
    path, uid, place, writable = json.loads(plan)
    info = mounts.private_tree(path, place)
    words = command(place, (info.st_uid, info.st_gid), uid, writable=writable)
    os.execvp(words[0], words)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    stdio.open_closed()
    main(sys.argv[1])
