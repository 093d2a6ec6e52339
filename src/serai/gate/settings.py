"""The gate's own settings: limits, timeouts, the audit log's size and the proxy behind it.

The file is /etc/serai/gate.toml; it has a table a class below. The smallest values allowed
also keep the gate from locking itself out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serai.common import sizes, tables
from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.gate.policy.hosts import Target, target
from serai.gate.policy.rules import rule

_LONGEST_SOCKET_PATH = 107  # sun_path less its NUL, unix(7)
_LONGEST_CREDENTIAL = 255  # RFC 1929, section 2: a length of one byte
_DAY = 86400


def _address(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be of printable characters")
    if not text.startswith("/"):
        return str(target(text))
    if len(text.encode()) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"it is longer than {_LONGEST_SOCKET_PATH} bytes, unix(7)")
    return text


def _credential(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be of printable characters")
    if len(text.encode()) > _LONGEST_CREDENTIAL:
        raise ValueError(f"it is longer than {_LONGEST_CREDENTIAL} bytes")
    return text


@dataclass(frozen=True)
class Limits:
    """Limits of one session."""

    connections: int = setting(512, "connections at once", minimum=1, maximum=1 << 20)
    header_bytes: int = setting(65536, "bytes of a request's head", minimum=1024, maximum=1 << 20)
    denials_per_second: int = setting(
        50, "denials a second; the gate answers further ones late", minimum=1, maximum=1 << 20
    )
    denials_burst: int = setting(
        500, "denials at once before that limit applies", minimum=1, maximum=1 << 20
    )
    lookups: int = setting(8, "names looked up at once", minimum=1, maximum=1024)


@dataclass(frozen=True)
class Timeouts:
    """How many seconds the gate waits."""

    header: float = setting(30, "for a request's head", minimum=0.1, maximum=3600)
    dial: float = setting(15, "to look a name up, and again to connect", minimum=0.1, maximum=3600)
    idle: float = setting(600, "without a byte either way", minimum=0.1, maximum=30 * _DAY)
    half_closed: float = setting(
        60, "without a byte after one side has ended", minimum=0.1, maximum=30 * _DAY
    )
    total: float = setting(_DAY, "for a connection as a whole", minimum=0.1, maximum=365 * _DAY)


@dataclass(frozen=True)
class Audit:
    """The audit log."""

    file_size: int = setting(
        64 << 20,
        'bytes of a file: a number, or a size such as "64M"; at most half a percent of the disk',
        minimum=4096,
        maximum=1 << 40,
        parse=sizes.size,
    )
    files: int = setting(16, "files to keep", minimum=2, maximum=100_000)


@dataclass(frozen=True)
class Upstream:
    """Where allowed connections go. The values are never printed: one is a password."""

    kind: str = setting(
        "direct",
        "proxy type; `direct` is none",
        choices=("direct", "http", "socks5"),
    )
    address: str = setting(
        "",
        "the proxy's host:port, or the absolute path of its Unix socket",
        parse=_address,
        secret=True,
    )
    username: str = setting("", "user name at the proxy", parse=_credential, secret=True)
    password: str = setting(
        "", "password at the proxy; no session sees it", parse=_credential, secret=True
    )
    resolve: str = setting(
        "",
        "who looks names up: the parent proxy (the default with one), or the gate, which then"
        " checks the addresses too",
        choices=("parent", "gate"),
    )
    identity: bool = setting(
        False, "whether the gate tells a proxy of kind `http` which session asks, and its labels"
    )

    def __post_init__(self) -> None:
        direct = self.kind == "direct"
        if not self.resolve:
            object.__setattr__(self, "resolve", "gate" if direct else "parent")
        if direct:
            if self.address or self.username or self.password or self.resolve != "gate":
                raise ValueError('upstream.kind is "direct", to which no other key belongs')
            if self.identity:
                raise ValueError('upstream.identity goes with upstream.kind "http"')
            return
        if not self.address:
            raise ValueError(f'upstream.address is missing; upstream.kind is "{self.kind}"')
        if self.password and not self.username:
            raise ValueError("upstream.password needs upstream.username")
        if self.identity and self.kind != "http":
            raise ValueError('upstream.identity goes with upstream.kind "http"')
        if ":" in self.username and self.kind == "http":
            # RFC 7617, section 2: the first colon ends the name.
            raise ValueError("upstream.username must not have a colon in it")

    @property
    def endpoint(self) -> Target | Path | None:
        """``address`` parsed: a Path for a Unix socket, and None for ``direct``."""
        if self.kind == "direct":
            return None
        return Path(self.address) if self.address.startswith("/") else target(self.address)


def _name(text: str) -> str:
    found = rule(text)
    if not found.name or found.request is not None:
        raise ValueError(f"{text!a} is not a name such as example.com or *.example.com:443")
    return found.text


def _file(text: str) -> str:
    if text and not (text.isprintable() and text.startswith("/")):
        raise ValueError("it must be an absolute path")
    return text


@dataclass(frozen=True)
class Tls:
    """Where the gate ends TLS: for hosts with a binding, or with a rule about requests."""

    never: tuple[str, ...] = setting(
        (),
        "hosts whose TLS is never ended, such as those whose clients know their certificate",
        parse=_name,
    )
    roots: str = setting(
        "", "file of the certificates that sign those of hosts; empty: the VM's", parse=_file
    )


@dataclass(frozen=True)
class Settings:
    """Everything about the gate that an administrator decides, but for the policies."""

    limits: Limits = setting(Limits(), "limits of one session")
    timeouts: Timeouts = setting(Timeouts(), "how many seconds the gate waits")
    audit: Audit = setting(Audit(), "the audit log")
    upstream: Upstream = setting(Upstream(), "where allowed connections go")
    tls: Tls = setting(Tls(), "where the gate ends TLS")


def load(path: Path) -> Settings:
    """The settings in the TOML file ``path``; the defaults if there is no such file.

    Raises SeraiError naming the file and the key for anything it does not understand, and for a
    password in a file that everybody can read: sessions see ``/etc``.
    """
    hint = "see gate.toml in docs/settings.md"
    settings = tables.load(Settings, path, "the gate's settings", hint=hint, absent=Settings())
    if settings.upstream.password and path.stat().st_mode & 0o007:
        raise SeraiError(
            f"{path} holds a password and everybody can read it, sessions too",
            hint=f"chown root:serai-gate {path} && chmod 0640 {path}",
        )
    return settings
