"""A session's cgroup, read from its main process: cgroup v2, or v1's name=systemd without it.

Each payload gets a cgroup of its own below the unit's, so that whatever it leaves behind, however
often it forked, can be found and killed (cgroups(7)). The unit has Delegate=yes, with which
systemd leaves folders below it alone.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import signal
import time
from functools import cache
from pathlib import Path

from serai.common import proc
from serai.common.errors import TIMEOUT, SeraiError
from serai.runtime.sandbox.cgroup_files import kill, members, out_of_memory, tell

__all__ = ["kill", "members", "out_of_memory"]  # part of this module for all but the holder

DEADLINE = 10.0
EXEC = "exec-"
DETACHED = "detached-"
JOB = "job-"
WARM = 0.01
"""Seconds for which, after a move, the next one does not wait."""


def mounts(mountinfo: str) -> tuple[str | None, str | None]:
    """Where cgroup v2 and v1's name=systemd are mounted, from /proc/self/mountinfo (proc(5))."""
    unified = named = None
    for each in proc.mounts(mountinfo):
        if each.kind == "cgroup2":
            unified = each.place
        elif each.kind == "cgroup" and "name=systemd" in each.super_options:
            named = each.place
    return unified, named


def folder(membership: str, unified: str | None, named: str | None) -> Path | None:
    """The cgroup that /proc/PID/cgroup's text ``membership`` tells of; None for a root cgroup."""
    found = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        found[controllers] = path
    for controllers, mount in (("", unified), ("name=systemd", named)):
        path = found.get(controllers, "/")
        if mount is not None and path != "/":
            return Path(mount + path)
    return None


def of(pid: int) -> Path | None:
    """The cgroup of a running process; None if it is in no cgroup of its own."""
    membership = Path(f"/proc/{pid}/cgroup").read_text()
    return folder(membership, *_mounted())


@cache
def _mounted() -> tuple[str | None, str | None]:
    """Read once: with many mounts it takes a millisecond, and systemd mounts these at its start."""
    return mounts(Path("/proc/self/mountinfo").read_text())


class Moves:
    """When the kernel was last asked for a move, and whether it is at it."""

    asking = _thread.allocate_lock()
    last = -WARM


def expect_move() -> None:
    """Have the kernel prepare now for a process that is moved to another cgroup in a moment.

    Before the first move in a while it waits for all CPUs, some 10 ms, and so would systemd, which
    moves the first process of a unit (up to 255). So this process is moved to where it is, while
    the first steps of a session's start are done. The thread does nothing but wait. If it fails,
    the start takes longer.
    """
    if time.monotonic() - Moves.last < WARM or not Moves.asking.acquire(blocking=False):
        return
    try:
        _thread.start_new_thread(_move_nowhere, ())
    except RuntimeError:  # there can be no more threads
        Moves.asking.release()


def _move_nowhere() -> None:
    try:
        with contextlib.suppress(OSError):
            if (own := of(os.getpid())) is not None:
                (own / "cgroup.procs").write_text("0")
    finally:
        Moves.last = time.monotonic()
        Moves.asking.release()


def make(parent: Path, name: str) -> Path:
    """A cgroup ``name`` below ``parent``."""
    made = parent / name
    made.mkdir(exist_ok=True)
    return made


async def freeze(cgroup: Path, deadline: float = DEADLINE) -> None:
    """Stop everything in the cgroup from running; returns when nothing does any more.

    Written straight to cgroup.freeze (kernel: admin-guide/cgroup-v2.rst) and not asked of systemd:
    a unit that systemd itself holds frozen can be neither stopped nor, if it dies, started again,
    and it delays the VM's shutdown. With v1 every process is sent SIGSTOP.

    Raises SeraiError if it takes longer than ``deadline`` seconds.
    """
    end = time.monotonic() + deadline
    while not _frozen(cgroup):
        if time.monotonic() > end:
            thaw(cgroup)
            raise SeraiError(f"{cgroup} does not freeze", code=TIMEOUT)
        await asyncio.sleep(0.001)


def thaw(cgroup: Path) -> None:
    """Let everything in the cgroup run again."""
    switch = cgroup / "cgroup.freeze"
    if switch.exists():
        switch.write_text("0")
        return
    for pid in members(cgroup):
        tell(pid, signal.SIGCONT)


async def destroy(cgroup: Path) -> None:
    """Kill everything in the cgroup and remove it. Raises SeraiError if that takes too long."""
    end = time.monotonic() + DEADLINE
    pause = 0.0005
    while not _removed(cgroup):
        if time.monotonic() > end:
            raise SeraiError(f"processes in {cgroup} do not end", code=TIMEOUT)
        kill(cgroup)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)


def payloads(unit: Path) -> list[Path]:
    """The cgroups of payloads that were not asked to outlive their client."""
    return sorted(unit.glob(f"{EXEC}*")) if unit.is_dir() else []


def _removed(cgroup: Path) -> bool:
    try:
        for folder_, _, _ in os.walk(cgroup, topdown=False):
            Path(folder_).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not cgroup.exists()


def _frozen(cgroup: Path) -> bool:
    """Ask for freezing and tell whether it has happened."""
    switch = cgroup / "cgroup.freeze"
    if switch.exists():
        switch.write_text("1")
        return "frozen 1" in (cgroup / "cgroup.events").read_text().splitlines()
    running = [pid for pid in members(cgroup) if not _stopped(pid)]
    for pid in running:
        tell(pid, signal.SIGSTOP)
    return not running


def _stopped(pid: int) -> bool:
    """Whether a process is stopped, a zombie or gone; proc(5): stat's third field."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in "TtZX"
