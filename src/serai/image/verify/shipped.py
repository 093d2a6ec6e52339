"""What a finished disk holds at rest: traces of its build, and identities it must not share.

A booted system would hide them by making its own; so the bytes are read, without booting.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from serai.image import offline
from serai.image.build.layers import BUILD_USER
from serai.image.errors import BuildError
from serai.image.run import last_lines
from serai.image.verify.facts import Shipped

_FILES = (
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
)
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
# What the distribution itself puts into a home.
_SKELETON = {".bash_logout", ".bashrc", ".profile"}


def gather(disk: Path, scratch: Path) -> Shipped:
    """What the qcow2 ``disk`` holds; copies are made below ``scratch`` and removed.

    Raises BuildError if the disk cannot be read.
    """
    with offline.opened(disk, scratch) as root:
        return of_root(root, scratch)


def of_root(root: offline.RootFs, scratch: Path) -> Shipped:
    """The same of an opened disk."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        tree = Path(folder)
        # A path that is not there is none to look at.
        done = root.ask(_commands(tree))
        # It ends with 0 whatever happened, and where nothing is read nothing is found.
        if not _accounts(tree):
            raise BuildError(f"{root.name}'s root cannot be read: {last_lines(done.stderr)}")
        return look(tree)


def _commands(tree: Path) -> Iterator[str]:
    for path in _FILES:
        target = tree / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        yield f'dump "{path}" "{target}"\n'
    for path in _FOLDERS:
        target = (tree / path[1:]).parent
        target.mkdir(parents=True, exist_ok=True)
        yield f'rdump "{path}" "{target}"\n'


def look(tree: Path) -> Shipped:
    """The facts of a root file system, or part of one, that lies at ``tree``.

    Symbolic links are never followed: they would lead out of ``tree``.
    """
    return Shipped(
        machine_id=_text(tree / "etc/machine-id"),
        dbus_machine_id=_text(tree / "var/lib/dbus/machine-id"),
        host_keys=[path for path in _holding(tree, "etc/ssh") if "/ssh_host_" in path],
        logs=_holding(tree, "var/log"),
        homes=[*_in_homes(tree), *_homes_of_nobody(tree)],
        apt=_apt(tree),
        cloud_init=_all(tree, "var/lib/cloud"),
        temporary=[*_all(tree, "tmp"), *_all(tree, "var/tmp")],
        random_seeds=[
            f"/var/lib/systemd/{name}"
            for name in ("random-seed", "credential.secret")
            if _holds(tree / "var/lib/systemd" / name)
        ],
        mentions=_mentions(tree),
        sudoers=[path for path in _holding(tree, "etc/sudoers.d") if _rules(tree / path[1:])],
    )


def _accounts(tree: Path) -> list[str]:
    """The names of all accounts."""
    return [line.split(":")[0] for line in _text(tree / "etc/passwd").splitlines()]


def _mentions(tree: Path) -> list[str]:
    """Files that name the user that the build logs in as: accounts, their backups, rights."""
    paths = [*_holding(tree, "etc"), *_holding(tree, "var/backups")]
    return [path for path in paths if BUILD_USER.encode() in (tree / path[1:]).read_bytes()]


def _in_homes(tree: Path) -> list[str]:
    found = [*_holding(tree, "root"), *_holding(tree, "home")]
    return [path for path in found if Path(path).name not in _SKELETON]


def _homes_of_nobody(tree: Path) -> list[str]:
    accounts, homes = _accounts(tree), tree / "home"
    folders = [path for path in homes.iterdir() if path.is_dir()] if homes.is_dir() else []
    return [f"/home/{path.name}" for path in folders if path.name not in accounts]


def _apt(tree: Path) -> list[str]:
    cached = [path for path in _holding(tree, "var/cache/apt") if path.endswith((".deb", ".bin"))]
    return [*_holding(tree, "var/lib/apt/lists"), *cached]


def _all(tree: Path, folder: str) -> list[str]:
    """Paths in the image of everything below ``folder`` that is not a folder."""
    return sorted(
        f"/{path.relative_to(tree)}"
        for path in (tree / folder).rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _holding(tree: Path, folder: str) -> list[str]:
    """Paths in the image of the files below ``folder`` that hold something."""
    return [path for path in _all(tree, folder) if _holds(tree / path[1:])]


def _holds(path: Path) -> bool:
    """Whether a file has a byte that is not zero: lastlog(8) is a hole until somebody logs in."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            if chunk.strip(b"\0"):
                return True
    return False


def _rules(path: Path) -> bool:
    lines = [line.strip() for line in _text(path).splitlines()]
    return any(line and not line.startswith("#") for line in lines)


def _text(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    return path.read_text(errors="replace").strip()
