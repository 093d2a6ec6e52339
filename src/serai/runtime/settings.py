"""What a session may see and use: typed settings, read from TOML, with a default for everything.

The file is /etc/serai/session.toml; it has a table a class below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serai.common import sizes, tables
from serai.common.sandboxes import SANDBOXES
from serai.common.tables import setting

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIDDEN = {"dev", "proc", "run", "sessions", "tmp"}


def _path(text: str) -> str:
    if not text.startswith("/") or {"", ".", ".."} & set(text.split("/")[1:]):
        raise ValueError(f"{text!a} is not a plain absolute path")
    return text


def _visible(text: str) -> str:
    if _path(text).split("/")[1] in _HIDDEN:
        raise ValueError(f"{text!a} would show what a sandbox exists to hide")
    return text


def _sandbox(text: str) -> str:
    if text not in SANDBOXES:
        raise ValueError(f"{text!a} is no sandbox; there are {', '.join(SANDBOXES)}")
    return text


def _hostname(text: str) -> str:
    if not _HOSTNAME.fullmatch(text):
        raise ValueError(f"{text!a} is not a host name of small letters")
    return text


@dataclass(frozen=True)
class Limits:
    """Limits of a single process (getrlimit(2)); each is set as soft and as hard limit."""

    nofile: int = setting(524288, "open files", minimum=1)
    nproc: int = setting(14813, "processes and threads of the session's user", minimum=1)
    stack: int = setting(8 << 20, "bytes of the stack", minimum=1)
    memlock: int = setting(8 << 20, "bytes of locked memory", minimum=1)
    # 1 byte and not 0: only 1 also keeps the kernel from starting a crash handler of the VM
    # (core(5), "Piping core dumps to a program").
    core: int = setting(1, "bytes of a core dump; 1 means none", minimum=1)


@dataclass(frozen=True)
class Resources:
    """Limits of a session, see systemd.resource-control(5). ``serai set`` gives one less."""

    memory_max: str = setting(
        "50%",
        "memory: bytes with K, M, G or T, a percentage of the VM's memory, or infinity",
        parse=sizes.checked,
    )
    tasks_max: int = setting(8192, "processes and threads", minimum=1)
    cpu_weight: int = setting(100, "share of the CPU; a service has 100", minimum=1, maximum=10000)
    io_weight: int = setting(100, "share of the disk; a service has 100", minimum=1, maximum=10000)


@dataclass(frozen=True)
class Disk:
    """The sessions disk. Quotas work where its file system keeps them."""

    quota: str = setting(
        "50%",
        "what a session may use at most: bytes with K, M, G or T, a percentage of the disk, or"
        " infinity. Below that, running sessions share what is there; with infinity they do not",
        parse=sizes.checked,
    )
    files: str = setting(
        "50%",
        "how many files it may have at most: a number, a percentage or infinity; shared likewise",
        parse=sizes.checked,
    )
    reserve: int = setting(
        5,
        "percent of the disk that running sessions and files from outside leave free",
        minimum=1,
        maximum=99,
    )
    warn_free: int = setting(
        15, "percent free below which sessiond tells subscribers", minimum=1, maximum=99
    )
    act_free: int = setting(
        0,
        "percent free below which sessions are stopped or, if archives fill the disk, archived ones"
        " removed; 0: never",
        minimum=0,
        maximum=99,
    )


@dataclass(frozen=True)
class PoolSettings:
    """Sessions that are made before anybody asks: ``serai create`` without a name takes one."""

    size: int = setting(
        0,
        "how many are held ready, as far as a twentieth of the VM's memory has room for them",
        minimum=0,
        maximum=1000,
    )


@dataclass(frozen=True)
class SessionSettings:
    """Everything about a session that an administrator decides."""

    limits: Limits = setting(Limits(), "limits of a single process")
    resources: Resources = setting(Resources(), "limits of a whole session")
    disk: Disk = setting(Disk(), "the sessions disk")
    pool: PoolSettings = setting(PoolSettings(), "sessions that are made before anybody asks")
    attachable: tuple[str, ...] = setting(
        ("/mnt", "/srv", "/usr/local/share/serai/skills"),
        "directories of the VM that can be attached, and all below",
        parse=_path,
    )
    sandboxes: tuple[str, ...] = setting(
        SANDBOXES,
        "the sandboxes that a session may be made with; the first is the default",
        parse=_sandbox,
    )
    hostname: str = setting("serai", "host name inside sessions", parse=_hostname)
    visible: tuple[str, ...] = setting(
        (
            "/usr",
            "/etc",
            "/opt",
            "/sys/devices/system/cpu",
            "/var/cache/fontconfig",
            "/var/lib/dpkg",
            "/var/lib/texmf",
        ),
        "paths of the VM that a session reads at the same place, if they exist; nothing else of"
        " the VM exists inside",
        parse=_visible,
    )
    environment: Mapping[str, str] = setting(
        dict, "variables that are added to, and override, those that every payload has"
    )

    def __post_init__(self) -> None:
        if not self.sandboxes:
            raise ValueError("sandboxes: name at least one")
        for name in self.environment:
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"environment: {name!a} is not a variable's name")


def load(path: Path) -> SessionSettings:
    """The settings in the TOML file ``path``; the defaults if there is no such file.

    Raises SeraiError naming the file and the key for anything it does not understand.
    """
    hint = "see session.toml in docs/settings.md"
    return tables.load(
        SessionSettings, path, "the settings of sessions", hint=hint, absent=SessionSettings()
    )
