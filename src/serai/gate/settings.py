"""The gate's own settings: limits, timeouts, the audit log's size and the proxy behind it.

The file (``/etc/serai/gate.toml``) has a table a class below; an unknown key or a wrong type is an
error, because a limit that is silently ignored is worse than none.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.gate.hosts import BadHost, Target, target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SIZE = re.compile(r"([1-9][0-9]{0,14})([KMGT]?)")
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_LONGEST_SOCKET_PATH = 107  # sun_path less its NUL, unix(7)
_LONGEST_CREDENTIAL = 255  # RFC 1929, section 2: a length of one byte
_KINDS = ("direct", "http", "socks5")
_RESOLVERS = ("parent", "gate")


@dataclass(frozen=True)
class Limits:
    """Limits of one session. ``header_bytes`` is of a request's head, ``lookups`` at once.

    Denials beyond ``denials_per_second``, with ``denials_burst`` saved up, are slowed down.
    """

    connections: int = 2048
    header_bytes: int = 65536
    denials_per_second: int = 50
    denials_burst: int = 500
    lookups: int = 8


@dataclass(frozen=True)
class Timeouts:
    """Seconds: to send a request's head, to connect, without a byte either way, after one side
    has ended, and of a connection as a whole."""

    header: float = 30
    dial: float = 15
    idle: float = 600
    half_closed: float = 60
    total: float = 86400


@dataclass(frozen=True)
class Audit:
    """The audit log: ``files`` files of at most ``file_size`` bytes (in the file, also "64M")."""

    file_size: int = 64 << 20
    files: int = 16


@dataclass(frozen=True)
class Upstream:
    """Where allowed connections go: ``direct`` or through a proxy, ``http`` or ``socks5``.

    ``address`` is the proxy's ``host:port``, in canonical spelling, or the absolute path of its
    Unix socket. ``resolve`` says who looks names up: the ``parent`` proxy, the default where there
    is one, or the ``gate``, which can then check the address as well.
    """

    kind: str = "direct"
    address: str = ""
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    resolve: str = ""

    def __post_init__(self) -> None:
        if not self.resolve:
            object.__setattr__(self, "resolve", "gate" if self.kind == "direct" else "parent")

    @property
    def endpoint(self) -> Target | Path | None:
        """``address`` parsed: a Path for a Unix socket, and None for ``direct``."""
        if self.kind == "direct":
            return None
        return Path(self.address) if self.address.startswith("/") else target(self.address)


@dataclass(frozen=True)
class Settings:
    """Everything about the gate that an administrator decides, but for the policies."""

    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    audit: Audit = Audit()
    upstream: Upstream = Upstream()


# The least and the most that makes sense; the least also keeps the gate from locking itself out.
_RANGES: dict[str, tuple[float, float]] = {
    "limits.connections": (1, 1 << 20),
    "limits.header_bytes": (1024, 1 << 20),
    "limits.denials_per_second": (1, 1 << 20),
    "limits.denials_burst": (1, 1 << 20),
    "limits.lookups": (1, 1024),
    "timeouts.header": (0.1, 3600),
    "timeouts.dial": (0.1, 3600),
    "timeouts.idle": (0.1, 30 * 86400),
    "timeouts.half_closed": (0.1, 30 * 86400),
    "timeouts.total": (0.1, 365 * 86400),
    "audit.file_size": (4096, 1 << 40),
    "audit.files": (2, 100_000),
}


def load(path: Path) -> Settings:
    """The settings in the TOML file ``path``; the defaults if there is no such file.

    Raises SeraiError naming the file and the key for anything it does not understand, and for a
    password in a file that everybody can read: sessions see ``/etc``.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.loads(file.read().decode("utf-8"))
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SeraiError(f"cannot read the gate's settings {path}: {error}") from error
    try:
        settings = parse(data)
    except ValueError as error:
        raise SeraiError(
            f"{path}: {error}", hint="see gate.toml in the reference of settings"
        ) from error
    if settings.upstream.password and mode & 0o007:
        raise SeraiError(
            f"{path} holds a password and everybody can read it, sessions too",
            hint=f"chown root:serai-gate {path} && chmod 0640 {path}",
        )
    return settings


def parse(data: Mapping[str, Any]) -> Settings:
    """The settings that ``data`` (a parsed TOML document) describes; ValueError names a bad key."""
    _known(data, Settings, "")
    audit = data.get("audit", {})
    if isinstance(audit, Mapping) and isinstance(audit.get("file_size"), str):
        audit = {**audit, "file_size": _size(audit["file_size"])}
    return Settings(
        limits=_numbers(data.get("limits", {}), Limits, "limits"),
        timeouts=_numbers(data.get("timeouts", {}), Timeouts, "timeouts"),
        audit=_numbers(audit, Audit, "audit"),
        upstream=_upstream(data.get("upstream", {})),
    )


def _known(data: Any, kind: type, prefix: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{prefix.rstrip('.')} must be a table")
    names = [entry.name for entry in dataclasses.fields(kind)]
    for key in data:
        if key not in names:
            raise ValueError(f"unknown key {prefix}{key}; known are {', '.join(names)}")


def _numbers(data: Any, kind: type, table: str) -> Any:
    _known(data, kind, f"{table}.")
    whole = kind is not Timeouts
    for key, value in data.items():
        name = f"{table}.{key}"
        # bool is an int in Python and never what was meant.
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, not {value!a}")
        least, most = _RANGES[name]
        if not least <= value <= most:  # not a number (NaN) is neither
            raise ValueError(f"{name} must be {least}..{most}, not {value}")
    return kind(**data)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"audit.file_size must be bytes, or a text such as 64M, not {text!a}")
    return int(match[1]) << _SHIFT[match[2]]


def _upstream(data: Any) -> Upstream:
    _known(data, Upstream, "upstream.")
    for key, value in data.items():
        if not isinstance(value, str) or not value.isprintable():
            # Never the value: it may be a password.
            raise ValueError(f"upstream.{key} must be a text of printable characters")
    upstream = Upstream(**data)
    if upstream.kind not in _KINDS:
        raise ValueError(f"upstream.kind must be {_either(_KINDS)}, not {upstream.kind!a}")
    if upstream.resolve not in _RESOLVERS:
        raise ValueError(f"upstream.resolve must be {_either(_RESOLVERS)}, not {data['resolve']!a}")
    if upstream.kind == "direct":
        if upstream != Upstream():
            raise ValueError('upstream.kind is "direct", to which no other key belongs')
        return upstream
    _check_credentials(upstream)
    return dataclasses.replace(upstream, address=_address(upstream.address))


def _address(text: str) -> str:
    if not text.startswith("/"):
        try:
            return str(target(text))
        except BadHost as error:
            raise ValueError(f"upstream.address: {error}") from error
    if len(text.encode()) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"upstream.address is longer than {_LONGEST_SOCKET_PATH} bytes, unix(7)")
    return text


def _check_credentials(upstream: Upstream) -> None:
    if upstream.password and not upstream.username:
        raise ValueError("upstream.password needs upstream.username")
    if ":" in upstream.username and upstream.kind == "http":
        # RFC 7617, section 2: the first colon ends the name.
        raise ValueError("upstream.username must not have a colon in it")
    for key in ("username", "password"):
        if len(getattr(upstream, key).encode()) > _LONGEST_CREDENTIAL:
            raise ValueError(f"upstream.{key} is longer than {_LONGEST_CREDENTIAL} bytes")


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(f'"{word}"' for word in words)
