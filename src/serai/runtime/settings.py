"""What a session may see and use: one typed policy, read from TOML, with a default for everything.

The file (``/etc/serai/session.toml``) has a table a class below; an unknown key or a wrong type is
an error, because a limit that is silently ignored is worse than none.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serai.runtime.errors import SeraiError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SIZE = re.compile(r"[1-9][0-9]*[KMGT]?|[1-9][0-9]?%|100%|infinity")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Limits:
    """Limits of a single process (getrlimit(2)); each is set as soft and as hard limit.

    ``nofile`` is a number of descriptors, ``nproc`` of processes of the session's UID, ``stack``
    and ``memlock`` are bytes. ``core`` is 1 byte and not 0, because only 1 also keeps the kernel
    from starting a crash handler of the VM (core(5), "Piping core dumps to a program").
    """

    nofile: int = 524288
    nproc: int = 14813
    stack: int = 8 << 20
    memlock: int = 8 << 20
    core: int = 1


@dataclass(frozen=True)
class Resources:
    """Limits of a whole session, in the units of systemd.resource-control(5).

    ``memory_max`` is systemd's own syntax: bytes with K, M, G or T, a percentage of the VM's
    memory, or ``infinity``. ``tasks_max`` counts processes and threads. The weights are 1..10000,
    100 being a service's default.
    """

    memory_max: str = "50%"
    tasks_max: int = 8192
    cpu_weight: int = 100
    io_weight: int = 100


@dataclass(frozen=True)
class Disk:
    """The sessions disk.

    A session may use ``quota`` bytes (with K, M, G or T, or a percentage of the disk, or
    ``infinity``) and ``files`` files (the same) where the file system keeps quotas. ``reserve``,
    ``warn_free`` and ``act_free`` are percent of the disk: files from outside leave the first free,
    below the second subscribers are told, below the third archived sessions are removed.
    """

    quota: str = "50%"
    files: str = "50%"
    reserve: int = 5
    warn_free: int = 15
    act_free: int = 5


@dataclass(frozen=True)
class Policy:
    """Everything about a session that an administrator decides.

    ``visible`` are absolute paths of the VM that a session reads at the same place; one that does
    not exist is left out. What is not listed does not exist inside. ``environment`` is added to,
    and overrides, what ``sandbox.environment`` gives every payload. Folders of the VM can be
    attached to sessions from ``attachable`` (absolute paths) and below.
    """

    limits: Limits = Limits()
    resources: Resources = Resources()
    disk: Disk = Disk()
    attachable: tuple[str, ...] = ("/mnt", "/srv")
    hostname: str = "serai"
    visible: tuple[str, ...] = (
        "/usr",
        "/etc",
        "/opt",
        "/sys/devices/system/cpu",
        "/var/cache/fontconfig",
        "/var/lib/dpkg",
        "/var/lib/texmf",
    )
    environment: Mapping[str, str] = field(default_factory=dict)


def load(path: Path) -> Policy:
    """The policy in the TOML file ``path``; the default policy if there is no such file.

    Raises SeraiError naming the file and the key for anything it does not understand.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Policy()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SeraiError(f"cannot read the session policy {path}: {error}") from error
    try:
        return parse(data)
    except ValueError as error:
        raise SeraiError(
            f"{path}: {error}", hint="see session.toml in the reference of settings"
        ) from error


def parse(data: Mapping[str, Any]) -> Policy:
    """The policy that ``data`` (a parsed TOML document) describes; ValueError names a bad key."""
    _known(data, Policy, "")
    limits = _table(data.get("limits", {}), Limits, "limits")
    resources = _table(data.get("resources", {}), Resources, "resources")
    policy = Policy(
        limits=limits,
        resources=resources,
        disk=_table(data.get("disk", {}), Disk, "disk"),
        attachable=_plain_paths(data.get("attachable", list(Policy.attachable)), "attachable"),
        hostname=_string(data.get("hostname", Policy.hostname), "hostname"),
        visible=_paths(data.get("visible", list(Policy.visible))),
        environment=_variables(data.get("environment", {})),
    )
    _check(policy)
    return policy


def _table(data: Any, kind: type, name: str) -> Any:
    _known(data, kind, f"{name}.")
    for entry in dataclasses.fields(kind):
        value = data.get(entry.name, entry.default)
        # bool is an int in Python and never what was meant.
        if isinstance(value, bool) or not isinstance(value, type(entry.default)):
            wanted = "a text" if isinstance(entry.default, str) else "a whole number"
            raise ValueError(f"{name}.{entry.name} must be {wanted}, not {value!r}")
        if isinstance(value, int) and not 0 < value < 1 << 63:
            raise ValueError(f"{name}.{entry.name} must be greater than 0, not {value}")
    return kind(**data)


def _known(data: Any, kind: type, prefix: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{prefix.rstrip('.')} must be a table, not {data!r}")
    names = {entry.name for entry in dataclasses.fields(kind)}
    for key in data:
        if key not in names:
            raise ValueError(f"unknown key {prefix}{key}; known are {', '.join(sorted(names))}")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} must be a text without NUL, not {value!r}")
    return value


def _plain_paths(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of absolute paths, not {value!r}")
    paths = tuple(_string(path, name) for path in value)
    for path in paths:
        parts = path.split("/")
        if not path.startswith("/") or {"", ".", ".."} & set(parts[1:]):
            raise ValueError(f"{name}: {path!r} is not a plain absolute path")
    return paths


def _paths(value: Any) -> tuple[str, ...]:
    paths = _plain_paths(value, "visible")
    for path in paths:
        if path.split("/")[1] in {"dev", "proc", "run", "sessions", "tmp"}:
            raise ValueError(f"visible: {path!r} would show what a sandbox exists to hide")
    return paths


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"environment must be a table, not {value!r}")
    for name in value:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"environment: {name!r} is not a variable's name")
    return {name: _string(text, f"environment.{name}") for name, text in value.items()}


def _check(policy: Policy) -> None:
    if not _HOSTNAME.fullmatch(policy.hostname):
        raise ValueError(f"hostname {policy.hostname!r} is not a host name of small letters")
    resources = policy.resources
    if not _SIZE.fullmatch(resources.memory_max):
        raise ValueError(f"resources.memory_max {resources.memory_max!r}: want 4G, 50% or infinity")
    for name in ("quota", "files"):
        if not _SIZE.fullmatch(getattr(policy.disk, name)):
            raise ValueError(
                f"disk.{name} {getattr(policy.disk, name)!r}: want 4G, 50% or infinity"
            )
    for name in ("reserve", "warn_free", "act_free"):
        if getattr(policy.disk, name) >= 100:  # noqa: PLR2004  # percent
            raise ValueError(f"disk.{name} is percent, not {getattr(policy.disk, name)}")
    for name in ("cpu_weight", "io_weight"):
        if not 1 <= getattr(resources, name) <= 10000:  # noqa: PLR2004  # systemd's own range
            raise ValueError(f"resources.{name} must be 1..10000, not {getattr(resources, name)}")
