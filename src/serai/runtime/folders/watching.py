"""Tells what changes in a path role's directory, or one below it: JSON lines; inotify(7).

The first line says that it watches. ``lost`` says that more happened than could be told: look at
all again. What a payload does here is bounded by DIRECTORIES, and by the kernel's queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
from typing import Any

from serai.common import linux, stdio
from serai.common.errors import INVALID_PARAMS, NOT_FOUND, TOO_LARGE, SeraiError
from serai.runtime.folders import scope

DIRECTORIES = 4096
READ = 64 << 10
PAUSE = 5.0
"""Seconds after which it looks whether the directory is still there."""
_HEAD = struct.Struct("iIII")
# sys/inotify.h
ATTRIBUTES, WRITTEN, MOVED_FROM, MOVED_TO, MADE, REMOVED = 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
OVERFLOW, IGNORED, ONLY_DIRECTORIES, IS_DIRECTORY = 0x4000, 0x8000, 0x1000000, 0x40000000
WANTED = ATTRIBUTES | WRITTEN | MOVED_FROM | MOVED_TO | MADE | REMOVED | ONLY_DIRECTORIES
EVENTS = {
    MADE: "made",
    MOVED_TO: "made",
    WRITTEN: "written",
    ATTRIBUTES: "attributes",
    REMOVED: "removed",
    MOVED_FROM: "removed",
}


class Watch:
    """The directories below one, each by its number, and the events that they make."""

    def __init__(self, base: int, path: str, most: int = DIRECTORIES, pause: float = PAUSE) -> None:
        self._most, self._pause = most, pause
        self._watch = linux.inotify()
        self._paths: dict[int, str] = {}
        with scope.folder(base, path) as root:
            self._root = os.dup(root)
        self._add("")

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._watch)
        os.close(self._root)

    def events(self) -> list[dict[str, Any]]:
        """Wait for what happens next; nothing once the directory itself is gone."""
        told: list[dict[str, Any]] = []
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        while not told:
            # Nothing tells that the directory is gone as long as it is open here.
            if not poll.poll(self._pause * 1000):
                if os.fstat(self._root).st_nlink == 0:
                    return []
                continue
            data = os.read(self._watch, READ)
            while data:
                number, what, _, length = _HEAD.unpack_from(data)
                name = data[_HEAD.size : _HEAD.size + length].rstrip(b"\0")
                data = data[_HEAD.size + length :]
                told += self._happened(number, what, os.fsdecode(name))
        return told

    def _happened(self, number: int, what: int, name: str) -> list[dict[str, Any]]:
        if what & OVERFLOW:
            return [{"event": "lost", "path": "", "directory": True}]
        if what & IGNORED:
            self._paths.pop(number, None)
            return []
        if number not in self._paths or not name:
            return []
        above, is_directory = self._paths[number], bool(what & IS_DIRECTORY)
        if name.startswith(scope.SCRATCH) or (what & WRITTEN and self._is_nameless(above, name)):
            return []
        path = f"{above}/{name}" if above else name
        event = EVENTS[next(bit for bit in EVENTS if what & bit)]
        told = [{"event": event, "path": path, "directory": is_directory}]
        if is_directory and what & MOVED_FROM:
            self._drop(path)
        if is_directory and event == "made":
            told += self._add(path)
        return told

    def _is_nameless(self, above: str, name: str) -> bool:
        """Whether it is a file of O_TMPFILE: the kernel tells of it by a name that is no file's."""
        if not name.startswith("#"):
            return False
        try:
            with scope.folder(self._root, above) as directory:
                os.lstat(name, dir_fd=directory)
        except (OSError, SeraiError):
            return True
        return False

    def _add(self, path: str) -> list[dict[str, Any]]:
        """Watch a directory and those in it; what is in it by now, since nothing tells that."""
        found: list[dict[str, Any]] = []
        pending = [path]
        while pending:
            each = pending.pop()
            try:
                with scope.folder(self._root, each) as directory:
                    if len(self._paths) >= self._most:
                        hint = "watch a directory with less in it"
                        text = f"there are more than {self._most} directories"
                        raise SeraiError(text, hint, TOO_LARGE)
                    self._paths[linux.inotify_add(self._watch, directory, WANTED)] = each
                    found_here = _entries(directory)
            except (FileNotFoundError, PermissionError):
                continue  # a directory that its owner can't read
            except SeraiError as error:
                if each == "" or error.code not in (NOT_FOUND, INVALID_PARAMS):
                    raise
                continue  # it is gone, or something else by now
            for name, is_directory in found_here:
                below = f"{each}/{name}" if each else name
                found.append({"event": "made", "path": below, "directory": is_directory})
                if is_directory:
                    pending.append(below)
        return found

    def _drop(self, path: str) -> None:
        for number, each in list(self._paths.items()):
            if each == path or each.startswith(f"{path}/"):
                del self._paths[number]
                with contextlib.suppress(OSError):  # it is gone already
                    linux.inotify_remove(self._watch, number)


def _entries(directory: int) -> list[tuple[str, bool]]:
    listed = scope.reopen(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(listed) as entries:
            told = [each for each in entries if not each.name.startswith(scope.SCRATCH)]
            return [(each.name, each.is_dir(follow_symlinks=False)) for each in told]
    finally:
        os.close(listed)


def run(base: int, path: str, target: int) -> None:
    """Write the events to ``target`` until the directory is gone, or nobody reads them."""
    watch = Watch(base, path)
    try:
        told: list[dict[str, Any]] = [{"event": "watching", "path": "", "directory": True}]
        while told:
            lines = b"".join(json.dumps(each).encode() + b"\n" for each in told)
            stdio.write_all(target, lines)
            told = watch.events()
    finally:
        watch.close()
