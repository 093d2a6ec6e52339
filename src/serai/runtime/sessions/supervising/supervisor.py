"""What supervises sessions, as the rest of the runtime sees it: systemd, or a test's stand-in."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from serai.runtime.sessions.supervising.hearing import Hearing
from serai.runtime.settings import SessionSettings

# Before 50-MemoryMax.conf and its like, in which systemd keeps a session's own limits: of drop-ins
# the last name counts, whatever its directory.
DROP_IN = Path("/run/systemd/system/serai-session@.service.d/10-policy.conf")

# A unit's property on D-Bus: its name, and its value with its type.
Property = tuple[str, tuple[str, Any]]

# bindfs is root, and reads what hostile sessions ask of it. bubblewrap needs mounts, namespaces and
# netlink, with which it sets up an empty network; glibc looks up an interface's number by a Unix
# socket. What ProtectKernel*= would hide is not in the root that bindfs gets, and its capabilities
# are few.
_NO_CALLS = "@clock @cpu-emulation @debug @keyring @module @obsolete @raw-io @reboot @swap"
_FOLDER_LIMITS: list[Property] = [
    ("MemoryMax", ("t", 256 << 20)),
    ("MemorySwapMax", ("t", 0)),
    ("TasksMax", ("t", 64)),
    ("NoNewPrivileges", ("b", True)),
    ("RestrictAddressFamilies", ("(bas)", (True, ["AF_NETLINK", "AF_UNIX"]))),
    ("SystemCallArchitectures", ("as", ["native"])),
    ("SystemCallFilter", ("(bas)", (False, _NO_CALLS.split()))),
    ("SystemCallErrorNumber", ("i", errno.EPERM)),
]


@dataclass(frozen=True, eq=False)
class Running:
    """A session's unit: PIDs of its main process and of the sandbox's PID 1, its cgroup, and who
    answers for its payloads."""

    main: int
    init: int
    cgroup: Path | None
    pidfd: int
    hearing: Hearing = field(default_factory=Hearing)


class Supervisor(Protocol):
    """Starts and stops sessions' units. Every method may be repeated without harm."""

    async def apply(self, settings: SessionSettings) -> None:
        """Limit every session's unit as the settings say."""

    async def start(self, name: str) -> int:
        """Start the session's unit unless it runs; returns its main PID. Raises SeraiError."""

    async def limit(self, name: str, limits: Sequence[Property], *, own: bool) -> None:
        """Limit a running session, at once. Without ``own`` limits they are those of ``apply``."""

    async def stop(self, name: str) -> None:
        """End everything in the session's unit; returns when nothing of it is left."""

    async def start_folder(self, name: str, role: str, program: Sequence[str]) -> int:
        """Run what serves a folder of a session; returns its PID. It ends with the session."""

    async def stop_folder(self, name: str, role: str) -> None:
        """End that; returns when nothing of it is left."""

    async def running(self) -> dict[str, int]:
        """The sessions whose unit runs, with its main PID."""


def unit(name: str) -> str:
    """The unit of a session. '-' is data in an instance name, not a path: systemd.unit(5)."""
    return f"serai-session@{name}.service"


def folder_unit(name: str, role: str) -> str:
    """The unit that serves a folder of a session. No role has a '-' in its name."""
    return f"serai-folder-{name}-{role}.service"


def folder_settings(name: str, role: str, program: Sequence[str]) -> list[Property]:
    """Properties of the unit that runs ``program`` for a folder: org.freedesktop.systemd1(5)."""
    return [
        ("Description", ("s", f"Directory {role} of session {name}")),
        ("Type", ("s", "exec")),
        ("ExecStart", ("a(sasb)", [(program[0], list(program), False)])),
        ("BindsTo", ("as", [unit(name)])),
        ("After", ("as", [unit(name)])),
        ("Slice", ("s", "serai.slice")),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TimeoutStopUSec", ("t", 2_000_000)),
        *_FOLDER_LIMITS,
    ]


def drop_in(settings: SessionSettings) -> str:
    """What session.toml decides of every session's unit."""
    limits, resources = settings.limits, settings.resources
    lines = {
        "LimitNOFILE": limits.nofile,
        "LimitNPROC": limits.nproc,
        "LimitSTACK": limits.stack,
        "LimitMEMLOCK": limits.memlock,
        "LimitCORE": limits.core,
        "MemoryMax": resources.memory_max,
        "MemorySwapMax": 0,
        "TasksMax": resources.tasks_max,
        "CPUWeight": resources.cpu_weight,
        "IOWeight": resources.io_weight,
        "Environment": f"SERAI_ARCHITECTURE={os.uname().machine}",
    }
    return "[Service]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
