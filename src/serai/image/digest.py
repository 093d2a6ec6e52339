"""Digests of values, files and directories: what the key of a stage is made of."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

from serai.image.errors import BuildError

# What programs leave behind beside the files that people write.
_LEFTOVERS = ("__pycache__", ".pyc", ".swp", "~")


def of_value(value: object) -> str:
    """SHA-256 of a JSON-like value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def of_tree(folder: Path) -> str:
    """SHA-256 over every file below ``folder``: its path, whether it is executable, its bytes."""
    return of_value(
        [
            (str(path.relative_to(folder)), path.stat().st_mode & 0o100, of_file(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not is_left_over(path, folder)
        ]
    )


def is_left_over(path: Path, folder: Path) -> bool:
    """Whether a program left it in ``folder``, where nobody wrote it."""
    return any(part.endswith(_LEFTOVERS) for part in path.relative_to(folder).parts)


def of_source(path: Path) -> str:
    """SHA-256 over all that copying ``path``, somebody's file or directory, would bring.

    These are names, modes, bytes and links. Nothing is left out, and where a link leads is
    not followed. Raises BuildError for what no image should get: a device, a pipe or a socket, a
    link out of the directory, and a mode with which others may write or get more rights.
    """
    root = path.resolve()
    found = [root, *sorted(below(root))] if root.is_dir() else [root]
    return of_value([_entry(each, root) for each in found])


def below(directory: Path) -> Iterator[Path]:
    """All that is below ``directory``; unlike rglob it passes over nothing that is unreadable."""
    for each in directory.iterdir():
        yield each
        if each.is_dir() and not each.is_symlink():
            yield from below(each)


def _entry(path: Path, root: Path) -> tuple[str, str, str]:
    """Name, kind with mode, and content of one thing in a directory of somebody's."""
    name, mode = str(path.relative_to(root)), path.lstat().st_mode
    if stat.S_ISLNK(mode):
        try:
            inside = path.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # it leads to itself
            inside = False
        if not inside:
            raise BuildError(
                f"{path} is a link out of {root}",
                hint="make it relative, or put a copy of the file in its place",
            )
        return name, "link", str(path.readlink())
    if stat.S_ISDIR(mode):
        return name, "directory", ""  # the roles set its mode
    if not stat.S_ISREG(mode):
        raise BuildError(f"{path} is neither a file, a directory nor a link", hint="remove it")
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
        raise BuildError(
            f"{path} has the mode {stat.S_IMODE(mode):04o}, and would have it in the image",
            hint=f"chmod u-s,g-s,o-w {path}",
        )
    return name, f"file {stat.S_IMODE(mode):o}", of_file(path)
