"""What has arrived and is verified is put in its place: a home, and the files of jobs.

It waits below ``.serai/arriving/UID``, where only root can get to. A program without rights has
unpacked it (``exports.reading``), so what is read here is data of somebody hostile all the same:
files of jobs are made anew from what they say, and nothing is followed.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from serai.common import files, linux, wait
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.folders.exports import form
from serai.runtime.sandbox import holder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STATUS = {"status": int, "signal": int, "left": int, "lost": int, "ended_at": float, "reason": str}
MOST_REASON = 200
MOVED = "its session was moved"


def make(paths: Paths, uid: int) -> Path:
    """The empty directory into which a session arrives."""
    stage = paths.arriving / str(uid)
    stage.mkdir(mode=0o700)
    os.chown(stage, uid, uid)
    return stage


async def clear(paths: Paths, uid: int) -> None:
    """Remove what an arrival that was cut off has left."""
    if not os.path.lexists(stage := paths.arriving / str(uid)):
        return
    program = ["/usr/bin/rm", "-rf", "--one-file-system", "--", str(stage)]
    child = subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await wait.exited(child.pid)
    if child.wait() != 0:
        raise SeraiError(f"{stage} is not removed", "look what is there")


def told(paths: Paths, uid: int) -> dict[str, Any]:
    """What the export says the session is. Raises SeraiError."""
    raw = _read(paths.arriving / str(uid) / form.FIRST, 2 * form.MOST_TEXT)
    if raw is None:
        raise form.wrong(f"it has no {form.FIRST}")
    return form.read_text(raw, form.FIRST)


async def place(paths: Paths, name: str, uid: int) -> None:
    """Put it in place, the home last. May be repeated. Raises SeraiError or OSError."""
    stage = paths.arriving / str(uid)
    if (stage / form.JOBS).is_dir():
        await _place_jobs(stage / form.JOBS, paths.jobs / str(uid), uid)
    sessions, opened = os.open(paths.sessions, _FOLDER), -1
    try:
        if (stage / form.HOME).is_dir():
            opened = os.open(stage, _FOLDER)
            try:
                os.rename(form.HOME, name, src_dir_fd=opened, dst_dir_fd=sessions)
            except OSError as error:
                raise SeraiError(
                    f"cannot put the home at {paths.home(name)}: {error.strerror}",
                    "something is there that belongs to no session",
                ) from error
            os.fsync(opened)
            os.fsync(sessions)
    finally:
        for each in (sessions, opened):
            if each >= 0:
                os.close(each)
    # What is left is small, and may stay: it is removed with the session.
    with suppress(OSError):
        (stage / form.FIRST).unlink(missing_ok=True)
        (stage / form.JOBS).rmdir()
        stage.rmdir()


async def _place_jobs(source: Path, target: Path, uid: int) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    for job in sorted(each.name for each in source.iterdir()):
        _place_job(source / job, target / job, uid)
        await asyncio.sleep(0)
    opened = os.open(target, _FOLDER)
    try:
        linux.syncfs(opened)
    finally:
        os.close(opened)


def _place_job(source: Path, target: Path, uid: int) -> None:
    asked = _object(source / "job.json")
    if asked is not None and (known := _asked(asked)) is not None:
        target.mkdir(mode=0o700, exist_ok=True)
        _write(target / "job.json", json.dumps(known).encode())
        ended = _object(source / "status")
        if ended is None and _read(source / holder.BEGUN, form.MOST_TEXT) is not None:
            ended = {"reason": MOVED}  # it ran when its session was exported
        if ended is not None:
            _write(target / "status", json.dumps(_ended(ended)).encode())
        with suppress(FileNotFoundError):
            (source / "log").rename(target / "log")
            os.chown(target / "log", uid, uid, follow_symlinks=False)
    for each in form.JOB_FILES:
        (source / each).unlink(missing_ok=True)
    source.rmdir()


def _write(path: Path, content: bytes) -> None:
    files.write(path, content, 0o600, durable=False)


def _asked(found: dict[str, Any]) -> dict[str, Any] | None:
    """What a job was asked to do, as far as it says so; it runs nowhere."""
    argv, request = found.get("argv"), found.get("request")
    good = isinstance(argv, list) and argv and all(isinstance(each, str) for each in argv)
    if not good or not isinstance(request, str):
        return None
    at = _number(found.get("started_at"))
    return {"argv": argv, "started_at": at, "request": request[:128], "boot": "", "main": 0}


def _ended(found: dict[str, Any]) -> dict[str, Any]:
    """How a job ended; only what is of the right kind."""
    known: dict[str, Any] = {}
    for key, kind in _STATUS.items():
        value = found.get(key)
        if kind is float and value is not None:
            known[key] = _number(value)
        elif type(value) is int is kind and abs(value) < 1 << 62:
            known[key] = value
        elif type(value) is str is kind:
            known[key] = value[:MOST_REASON]
    return known


def _number(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and 0 <= value < 1 << 40 else 0.0


def _object(path: Path) -> dict[str, Any] | None:
    if (raw := _read(path, form.MOST_TEXT)) is None:
        return None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read(path: Path, most: int) -> bytes | None:
    """A regular file; None if there is none, or it is too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        raw = file.read(most + 1)
    return raw if len(raw) <= most else None
