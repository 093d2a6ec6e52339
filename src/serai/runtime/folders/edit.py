"""Makes, moves, removes and looks at what is in a path role's directory, many times by one process.

Each line of the input is an operation as JSON: ``{"do": "mkdir", "path": "a/b"}``. Each line of the
output is its result, in that order: ``{"result": …}`` or ``{"error": …}``. A failed operation does
not keep the next ones from being carried out. As whom this runs, transfer says.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from typing import Any

from serai.common import linux, stdio
from serai.common.errors import FAILED, INVALID_PARAMS, SeraiError
from serai.runtime.folders import scope

MAX_LINE = 64 << 10
TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}
_RM = ("/usr/bin/rm", "-rf", "--one-file-system", "--")


def run(base: int, source: int, target: int) -> None:
    """Carry out every line of ``source`` below ``base``, and write each result to ``target``."""
    with os.fdopen(os.dup(source), "rb") as lines:
        while line := lines.readline(MAX_LINE):
            stdio.write_all(target, json.dumps(answer(base, line)).encode() + b"\n")


def answer(base: int, line: bytes) -> dict[str, Any]:
    """Carry out one operation; its result or what is wrong."""
    try:
        return {"result": _carry_out(base, line)}
    except SeraiError as error:
        told = {"code": error.code, "message": error.message, "data": {"hint": error.hint}}
        return {"error": told}


def mkdir(base: int, path: str) -> None:
    """Make a directory, and those above it that are missing. It may be there."""
    names = scope.check(path)
    for depth in range(1, len(names) + 1):
        with scope.parent(base, "/".join(names[:depth])) as (above, name):
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            except FileExistsError:
                continue
    with scope.folder(base, path):
        pass  # else it is no directory, and that is said


def remove(base: int, path: str, recursive: bool = False) -> None:
    """Remove a file, a symlink or an empty directory; with ``recursive`` all that is in it, too."""
    with scope.parent(base, path) as (above, name):
        if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            if recursive:
                remove_tree(above, name, path)
            else:
                os.rmdir(name, dir_fd=above)
        else:
            os.unlink(name, dir_fd=above)


def remove_tree(above: int, name: str, path: str) -> None:
    """Remove a directory with all in it. rm(1) copes with any depth, and follows no symlink."""
    done = subprocess.run(
        [*_RM, name],
        cwd=f"/proc/self/fd/{above}",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(above,),
        check=False,
    )
    if done.returncode != 0:
        hint = "the session's user may not remove all that is in it, or more came meanwhile"
        raise SeraiError(f"{ascii(path)[:200]} is not removed whole", hint, FAILED)


def move(base: int, path: str, to: str, replace: bool = False) -> None:
    """Give something another name. What has that name already stays, unless it is to go."""
    with (
        scope.parent(base, path) as (source, old),
        scope.parent(base, to) as (target, new),
    ):
        try:
            if replace:
                os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            else:
                linux.rename_new(source, old, target, new)
        except FileExistsError as error:
            raise scope.failed(to, error) from None


def look(base: int, path: str) -> dict[str, Any]:
    """What is there: name, type, size, mode, time of change. A symlink is not followed."""
    if not (names := scope.check(path)):
        with scope.folder(base, path) as found:
            return entry(".", os.fstat(found))
    with scope.parent(base, path) as (above, name):
        return entry(names[-1], os.stat(name, dir_fd=above, follow_symlinks=False))


def entry(name: str, info: os.stat_result) -> dict[str, Any]:
    """An entry of a directory as ``ls`` and ``stat`` show it."""
    kind = TYPES.get(stat.S_IFMT(info.st_mode), "other")
    return {
        "name": name,
        "type": kind,
        "size": info.st_size if kind == "file" else None,
        "mode": stat.S_IMODE(info.st_mode),
        "modified_at": info.st_mtime,
    }


OPERATIONS: dict[str, tuple[Callable[..., Any], dict[str, type]]] = {
    "mkdir": (mkdir, {"path": str}),
    "remove": (remove, {"path": str, "recursive": bool}),
    "move": (move, {"path": str, "to": str, "replace": bool}),
    "stat": (look, {"path": str}),
}
"""What can be done, with what. A bool need not be given."""


def _carry_out(base: int, line: bytes) -> Any:
    if not line.endswith(b"\n"):
        raise _wrong(f"ends without a newline, or has more than {MAX_LINE} bytes")
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise _wrong("is no JSON") from None
    if not isinstance(given, dict):
        raise _wrong("is no object")
    name = given.pop("do", None)
    if not isinstance(name, str) or name not in OPERATIONS:
        raise _wrong(f"does none of {', '.join(OPERATIONS)}")
    do, wanted = OPERATIONS[name]
    needed = {key for key, kind in wanted.items() if kind is str}
    if not needed <= given.keys() <= wanted.keys() or any(
        not isinstance(value, wanted[key]) for key, value in given.items()
    ):
        raise _wrong(f"to {name} takes {', '.join(wanted)}")
    try:
        return do(base, **given)
    except OSError as error:
        raise scope.failed(given["path"], error) from None
    except UnicodeEncodeError:  # half of a surrogate pair
        raise _wrong("has a name that no file can have") from None


def _wrong(why: str) -> SeraiError:
    return SeraiError(f"an operation {why}", code=INVALID_PARAMS)
