"""Judges whether a VM can do its work now, by what its daemons and the kernel said. It asks nobody.

``unhealthy`` is for who sends sessions: this VM is of no use to them. ``degraded`` is for who runs
the VM: it works, and will not for ever, or not for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.common import proc
from serai.common.paths import Paths
from serai.common.versions import written
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import RUNNING
from serai.runtime.sessions.steps import quota
from serai.runtime.settings import Disk

HEALTHY, DEGRADED, UNHEALTHY = WORDS = ("healthy", "degraded", "unhealthy")
"""From well to ill."""
LITTLE, NONE = 10.0, 2.0
"""Percent of memory, of the root disk and of /run: below that it is degraded, and unhealthy."""
STUCK = 60.0
"""Seconds for an operation on a session; the doctor waits as long."""
EARLIEST = 1_700_000_000
"""A clock before that, in 2023, was never set."""


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at. ``hint`` is what to do about it."""

    name: str
    status: str = HEALTHY
    detail: str = ""
    hint: str = ""


def worst(signs: Iterable[Sign]) -> str:
    """What all of them come to."""
    return max((each.status for each in signs), key=WORDS.index, default=HEALTHY)


def sessiond(records: Sequence[Record], now: float) -> Sign:
    """By its sessions: one that is long on its way to another state has something in its way."""
    running = sum(each.state in RUNNING for each in records)
    said = f"{running} of {len(records)} sessions run"
    stuck = [each.name for each in records if each.goal and now - each.changed_at > STUCK]
    if stuck:
        hint = "its journal says what each waits for"
        return Sign("sessiond", DEGRADED, f"{said}, {len(stuck)} stuck: {stuck[0]}", hint)
    return Sign("sessiond", detail=said)


def gate(problem: str) -> Sign:
    """``problem`` is why the gate did not answer in time."""
    if problem:
        return Sign("gate", UNHEALTHY, problem, "'journalctl -u serai-gate' says why")
    return Sign("gate", detail="it answers")


def audit(problem: str | None) -> Sign:
    """What the gate says keeps it from writing the audit log; None if it does not say."""
    if problem is None:
        return Sign("audit", DEGRADED, "the gate does not say whether it can write it")
    if problem:
        hint = "nothing leaves, and no session is made, until it can be"
        return Sign("audit", UNHEALTHY, f"the audit log cannot be written: {problem}", hint)
    return Sign("audit", detail="it can be written")


def disk(sessions: Path, rules: Disk) -> Sign:
    """The sessions disk, by the settings' own thresholds."""
    if os.statvfs(sessions).f_flag & os.ST_RDONLY:
        hint = "the kernel's log says why; e2fsck may be due"
        return Sign("disk", UNHEALTHY, "the sessions disk is read-only", hint)
    room, files = quota.free(sessions), quota.free_files(sessions)
    said = f"{room:.0f} % of the sessions disk and {files:.0f} % of its files are free"
    hint = "'serai gc --keep-free' makes room"
    if min(room, files) < rules.reserve:
        return Sign("disk", UNHEALTHY, said, hint)
    if quota.level(min(room, files), rules) is not quota.Level.FINE:
        return Sign("disk", DEGRADED, said, hint)
    return Sign("disk", detail=said)


def room(name: str, place: Path) -> Sign:
    """Another file system of the VM's."""
    free = quota.free(place)
    words = {"root": "the root disk", "run": "/run"}
    return _by_room(name, free, f"{free:.0f} % of {words[name]} is free")


def memory(meminfo: str) -> Sign:
    """The VM's memory, by the text of /proc/meminfo. The pool stops at the same tenth."""
    found = proc.memory(meminfo)
    total, available = found["MemTotal"], found["MemAvailable"]
    said = f"{available >> 10} of {total >> 10} MiB are available"
    return _by_room("memory", 100.0 * available / max(total, 1), said)


def _by_room(name: str, free: float, said: str) -> Sign:
    if free >= LITTLE:
        return Sign(name, detail=said)
    hint = "stop or remove sessions" if name == "memory" else "see what fills it"
    return Sign(name, UNHEALTHY if free < NONE else DEGRADED, said, hint)


def installed(paths: Paths) -> str:
    """The version of the files that a daemon would start with now; '' where there are none."""
    try:
        text = (paths.root / "usr/lib/serai/python/serai/__init__.py").read_text()
    except OSError:
        return ""
    return written(text)


def versions(own: str, gate_has: str | None, files: str) -> Sign:
    """Whether the daemons that run are the ones that are installed.

    ``gate_has`` is None where the gate says nothing, '' where it is too old to tell its version.
    """
    hint = "an upgrade was interrupted: provision again, or restart both daemons"
    odd = []
    if files and files != own:
        odd += [f"{files} is installed, and sessiond runs {own}"]
    if gate_has is not None and gate_has != own:
        odd += [f"sessiond is {own}, and the gate {gate_has or 'an older one'}"]
    if odd:
        return Sign("versions", DEGRADED, "; ".join(odd), hint)
    return Sign("versions", detail=own)


def clock(now: float, synchronised: bool | None) -> Sign:
    """``synchronised`` is what the kernel says; None where it may not be asked."""
    if now < EARLIEST:
        hint = "set the clock: no certificate is valid by it"
        return Sign("clock", UNHEALTHY, "it was never set", hint)
    if synchronised is False:
        hint = "let an NTP client set it, for example systemd-timesyncd"
        return Sign("clock", DEGRADED, "nothing keeps it right", hint)
    return Sign("clock", detail="it is kept right" if synchronised else "it was set")


def pool(shown: Mapping[str, Any]) -> Sign:
    """The pool by what it tells. One that is being filled is well: creates are only slower."""
    said = f"{shown['ready']} of {shown['wanted']} sessions are ready"
    if shown["problem"]:
        return Sign("pool", DEGRADED, f"{said}; it is not filled: {shown['problem']}")
    return Sign("pool", detail=said)
