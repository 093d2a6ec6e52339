"""What a finished disk holds at rest: traces of its build, and identities it must not share.

A booted system would hide them by making its own; so the bytes are read, without booting.
"""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from serai.image import ext4, offline
from serai.image.build.playbook import BUILD_USER
from serai.image.errors import BuildError
from serai.image.verify.facts import Shipped

_SHARED = (
    "/var/lib/serai/keys/gate.cred",
    "/var/lib/serai/keys/gate.key",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
)
_FILES = ("/var/lib/dbus/machine-id", *_SHARED)
_FOLDERS = (
    "/etc",
    "/home",
    "/root",
    "/tmp",  # noqa: S108
    "/var/backups",
    "/var/cache/apt",
    "/var/lib/apt/lists",
    "/var/lib/cloud",
    "/var/log",
    "/var/tmp",  # noqa: S108
)
# Those of which the text counts, as far as they are no longer than any that is right.
_TEXTS = (*_FILES, "/etc/machine-id", "/etc/passwd", "/etc/sudoers.d/")
_TEXT = 1 << 20
# What the distribution itself puts into a home.
_SKELETON = {".bash_logout", ".bashrc", ".profile"}


def gather(disk: Path, scratch: Path) -> Shipped:
    """What the qcow2 ``disk`` holds; scratch files lie below ``scratch`` and are removed.

    Raises BuildError if the disk cannot be read.
    """
    with offline.opened(disk, scratch) as root:
        return of_root(root, scratch)


def of_root(root: offline.RootFs, scratch: Path) -> Shipped:
    """The same of an opened disk."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        looked = _Root(ext4.Reader(root, Path(folder)))
        # Where nothing is read nothing is found.
        if not _accounts(looked):
            raise BuildError(f"{root.name}'s root cannot be read: it has no accounts")
        return _look(looked)


class _Root:
    """What is looked at of a root file system: the paths, and what was read of the files.

    Nothing is ever written, and symbolic links are never followed.
    """

    def __init__(self, disk: ext4.Reader) -> None:
        self.paths = {f"/{path}": inode for path, inode in disk.inodes().items()}
        wanted = {
            inode.number: inode
            for path, inode in self.paths.items()
            if stat.S_ISREG(inode.mode) and path.startswith((*_FOLDERS, *_FILES))
        }
        # A byte that is not zero: lastlog(8) is a hole until somebody logs in.
        self._holding: set[int] = set()
        self._mentioning: set[int] = set()
        for inode, parts in disk.contents(list(wanted.values())):
            tail = b""
            for part in parts:
                if part.strip(b"\0"):
                    self._holding.add(inode.number)
                if BUILD_USER.encode() in tail + part:
                    self._mentioning.add(inode.number)
                tail = part[-len(BUILD_USER) :]
        small = [
            inode
            for path, inode in self.paths.items()
            if inode.number in wanted and inode.size <= _TEXT and path.startswith(_TEXTS)
        ]
        self._texts = {
            inode.number: b"".join(parts).decode(errors="replace").strip()
            for inode, parts in disk.contents(small)
        }

    def all(self, folder: str) -> list[str]:
        """Paths of everything below ``folder`` that is not a directory."""
        return sorted(
            path
            for path, inode in self.paths.items()
            if path.startswith(f"{folder}/") and not stat.S_ISDIR(inode.mode)
        )

    def folders(self, folder: str) -> list[str]:
        """Names of the directories in ``folder``."""
        return [
            path.rpartition("/")[2]
            for path, inode in self.paths.items()
            if path.rpartition("/")[0] == folder and stat.S_ISDIR(inode.mode)
        ]

    def holding(self, folder: str) -> list[str]:
        """Paths of the files below ``folder`` that hold something."""
        return [path for path in self.all(folder) if self.holds(path)]

    def holds(self, path: str) -> bool:
        """Whether there is a file with a byte that is not zero."""
        return path in self.paths and self.paths[path].number in self._holding

    def mentions(self, path: str) -> bool:
        """Whether the file names the user that the build logs in as."""
        return self.paths[path].number in self._mentioning

    def text(self, path: str) -> str:
        """What a file says; '' if there is none, and its size if nobody reads that much."""
        if (inode := self.paths.get(path)) is None or not stat.S_ISREG(inode.mode):
            return ""
        return self._texts.get(inode.number, f"{inode.size} bytes")


def _look(root: _Root) -> Shipped:
    return Shipped(
        machine_id=root.text("/etc/machine-id"),
        dbus_machine_id=root.text("/var/lib/dbus/machine-id"),
        host_keys=[path for path in root.holding("/etc/ssh") if "/ssh_host_" in path],
        logs=root.holding("/var/log"),
        homes=[*_in_homes(root), *_homes_of_nobody(root)],
        apt=_apt(root),
        cloud_init=root.all("/var/lib/cloud"),
        temporary=[*root.all("/tmp"), *root.all("/var/tmp")],  # noqa: S108 - the disk's
        random_seeds=[path for path in _SHARED if root.holds(path)],
        mentions=[
            path
            for path in (*root.holding("/etc"), *root.holding("/var/backups"))
            if root.mentions(path)
        ],
        sudoers=[path for path in root.holding("/etc/sudoers.d") if _rules(root.text(path))],
    )


def _accounts(root: _Root) -> list[str]:
    """The names of all accounts."""
    return [line.split(":")[0] for line in root.text("/etc/passwd").splitlines()]


def _in_homes(root: _Root) -> list[str]:
    found = [*root.holding("/root"), *root.holding("/home")]
    return [path for path in found if path.rpartition("/")[2] not in _SKELETON]


def _homes_of_nobody(root: _Root) -> list[str]:
    accounts = _accounts(root)
    return [f"/home/{name}" for name in root.folders("/home") if name not in accounts]


def _apt(root: _Root) -> list[str]:
    cached = [path for path in root.holding("/var/cache/apt") if path.endswith((".deb", ".bin"))]
    return [*root.holding("/var/lib/apt/lists"), *cached]


def _rules(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines()]
    return any(line and not line.startswith("#") for line in lines)
