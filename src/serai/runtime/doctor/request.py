"""What the probe is asked, and what it should answer: derived from the settings and the session."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serai.common import bridge, proc
from serai.runtime.doctor import calls, probe, reach
from serai.runtime.sandbox import bwrap
from serai.runtime.settings import SessionSettings

SOURCE = Path(str(probe.__file__)).read_text()
PARTS = tuple(name for name in probe.PARTS if name != "gate")
STATUS = ("cat", "/proc/self/status")
PYTHON = ("/usr/bin/python3", "-I", "-c", SOURCE)


def argv(request: dict[str, Any]) -> list[str]:
    """The command that runs the probe: its source, and what it is asked."""
    return [*PYTHON, json.dumps(request)]


def request(
    home: Path, *, secret: Path, mark: str, port: int, key: int, parts: Sequence[str] = PARTS
) -> dict[str, Any]:
    """``secret`` is another session's file that holds ``mark`` and that everybody may read.

    ``port`` is listened on by the VM's loopback, ``key`` is that of shared memory in the VM.
    """
    return {
        "parts": list(parts),
        "home": str(home),
        "secret": str(secret),
        "mark": mark,
        "port": port,
        "key": key,
        "bridge": list(bridge.SOCKETS),
        "gate": list(bridge.SOCKETS.values()),
        "calls": calls.request(platform.machine()),
        "read_only": list(reach.READ_ONLY),
        "private": list(reach.PRIVATE),
        "fixed": list(reach.FIXED),
        "secrets": list(reach.SECRETS),
        "switches": list(reach.SWITCHES),
    }


def found(status: str, output: str) -> dict[str, Any]:
    """The facts in what a payload ``STATUS`` and the probe print. Raises ValueError."""
    lines = [line.split(":", 1) for line in status.splitlines()]
    told: dict[str, Any] = json.loads(output)["found"]
    return {**told, "status": {key: value.strip() for key, value in lines}}


def wanted(settings: SessionSettings, session: bwrap.Session) -> dict[str, Any]:
    """What the facts are compared with."""
    limits = settings.limits
    return {
        "name": session.name,
        "uid": session.uid,
        "home": str(session.home),
        "environment": bwrap.environment(settings, session),
        "sandbox": settings.sandboxes[0],
        "hostname": settings.hostname,
        "hosts": bwrap.hosts(settings),
        "visible": list(settings.visible),
        "below": _below(settings.visible),
        "namespaces": {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in probe.KINDS},
        "limits": {
            "NOFILE": limits.nofile,
            "NPROC": limits.nproc,
            "STACK": limits.stack,
            "MEMLOCK": limits.memlock,
            "CORE": limits.core,
        },
    }


def _below(visible: Sequence[str]) -> list[str]:
    """What the VM has mounted below visible folders: it comes with them."""
    rows = [each.place for each in proc.mounts_of()]
    return [row for row in rows if any(row.startswith(f"{path}/") for path in visible)]
