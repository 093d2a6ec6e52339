"""The certificate authority with which the gate ends TLS: a root for each session, and leaves.

A session's root permits the names of that session's hosts only, so that a key that leaks, or a bug
of the gate's, forges no other host's certificate for a client that minds name constraints. All of
these roots are of one key and one subject: a leaf does for every session.

The key lasts for two years. Its successor is in every bundle 90 days before the end, but signs only
in the last 30: a program reads its bundle once, so whatever began less than 60 days before the
change has both.
"""

from __future__ import annotations

import json
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Protocol

from serai.common import files
from serai.gate.policy import hosts

_DAY = 86400.0
_LIFETIME = 730 * _DAY
_SUCCESSOR_MADE = 90 * _DAY  # before the end
_SUCCESSOR_SIGNS = 30 * _DAY  # likewise
_LEAF_LIFETIME = 7 * _DAY
_LEAF_RENEWED = 2 * _DAY  # before its end: more than what a connection of it may last
_BACKDATED = _DAY  # for clocks that are behind ours
_STORED = "authority"
_CONTEXTS = 256
_SESSIONS = 256


class SealedFiles(Protocol):
    """Where the keys are kept: encrypted files."""

    def read(self, name: str) -> bytes | None:
        """The content, or None if there is none that can be read."""

    def write(self, name: str, data: bytes) -> None:
        """Replace the content."""


@dataclass(frozen=True)
class Issuer:
    """A key that signs, and from when until when its roots are valid, in seconds of the epoch."""

    key: str = field(repr=False)  # PEM
    since: float
    until: float


@dataclass
class _Leaf:
    context: ssl.SSLContext
    issuer: Issuer
    since: float
    until: float


def valid(issuers: Iterable[Issuer], now: float) -> list[Issuer]:
    """Those in force, the one that ends first first; none that a clock set wrong has made."""
    in_force = (issuer for issuer in issuers if issuer.since <= now < issuer.until)
    return sorted(in_force, key=lambda issuer: issuer.until)


def is_due(issuers: Sequence[Issuer], now: float) -> bool:
    """Whether another is to be made, of what ``valid`` returns."""
    return not issuers or issuers[-1].until - now <= _SUCCESSOR_MADE


def signer(issuers: Sequence[Issuer], now: float) -> Issuer:
    """Which of them signs: the oldest, until its successor's time has come."""
    for issuer in issuers:
        if issuer.until - now > _SUCCESSOR_SIGNS:
            return issuer
    return issuers[-1]


class Authority:
    """Makes roots and leaves; its keys are in ``store``.

    ``folder`` is on a tmpfs and none but the gate may look into it: OpenSSL reads a key from a file
    only, which is there for as long as that takes.
    """

    def __init__(self, store: SealedFiles, folder: Path, clock: Callable[[], float] = time) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock
        self._issuers: list[Issuer] | None = None  # None: not read yet
        self._leaf_key = ""
        self._leaves: OrderedDict[str, _Leaf] = OrderedDict()

    def renew(self) -> bool:
        """Make what is due; whether ``roots`` has changed by it, so that bundles are to be written.

        To be called now and then, at least once a day.
        """
        before = self._issuers
        if before is None:  # nobody has been told of any
            return False
        return self._in_force(self._clock()) != before

    def roots(self, names: Iterable[str]) -> bytes:
        """The roots of one session, PEM, for ``names``: ``host``, ``*.host`` and ``*``.

        A name includes what is below it, as name constraints do. Without names it is empty, and
        ``*`` permits every name. Two calls never return the same certificates.
        """
        # A gate that ends no TLS does without the package behind it, and its megabytes.
        from serai.gate.tls import signing  # noqa: PLC0415

        subtrees = sorted(
            {name if name == "*" else _name(name.removeprefix("*.")) for name in names}
        )
        if not subtrees:
            return b""
        issuers = self._in_force(self._clock())
        permitted = None if "*" in subtrees else subtrees
        return b"".join(
            signing.root(issuer.key, issuer.since, issuer.until, permitted) for issuer in issuers
        )

    def context(self, host: str) -> ssl.SSLContext:
        """What ends TLS as ``host``, a canonical name: TLS 1.2 or 1.3 and HTTP/1.1.

        Raises ValueError for an address and for what is no canonical name.
        """
        now = self._clock()
        issuer = signer(self._in_force(now), now)
        leaf = self._leaves.get(host)
        if (
            leaf is None
            or leaf.issuer != issuer
            or not leaf.since <= now < leaf.until - _LEAF_RENEWED
            # OpenSSL keeps the sessions of TLS 1.2 clients, up to 20,000 a context, and Python
            # has no way to say that it shall not.
            or leaf.context.session_stats()["number"] >= _SESSIONS
        ):
            leaf = self._leaf(_name(host), issuer, now)
            self._leaves[host] = leaf
            if len(self._leaves) > _CONTEXTS:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(host)  # the one that is not asked for is forgotten first
        return leaf.context

    def _in_force(self, now: float) -> list[Issuer]:
        if self._issuers is None:
            self._issuers = _read(self._store.read(_STORED))
        issuers = valid(self._issuers, now)
        if is_due(issuers, now):
            issuers.append(_issuer(now))
            # What is not in force is not written either: its key is gone.
            content = json.dumps([vars(issuer) for issuer in issuers])
            self._store.write(_STORED, content.encode())
        self._issuers = issuers
        return issuers

    def _leaf(self, host: str, issuer: Issuer, now: float) -> _Leaf:
        from serai.gate.tls import signing  # noqa: PLC0415  # as in roots

        self._leaf_key = self._leaf_key or signing.new_key()
        since, until = now - _BACKDATED, min(now + _LEAF_LIFETIME, issuer.until)
        chain = signing.leaf(host, self._leaf_key, issuer.key, since, until)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Which every client knows (RFC 8446, 9.1). With other groups a client can make one
        # handshake cost a hundred times as much: 0.1 s with ffdhe8192.
        context.set_ecdh_curve("prime256v1")
        # A handshake costs the gate less than a ticket is worth, and what is not resumed needs no
        # thought on which session or host it was of.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        file = self._folder / "chain.pem"
        try:
            files.write(file, chain + self._leaf_key.encode(), 0o600, durable=False)
            context.load_cert_chain(file)
        finally:
            file.unlink(missing_ok=True)
        return _Leaf(context, issuer, since, until)


def _name(text: str) -> str:
    if hosts.host(text) != text:  # also an address, which is never equal to a text
        raise ValueError(f"{text!r} is not a canonical host name")
    return text


def _read(data: bytes | None) -> list[Issuer]:
    """What is stored; none if it is not what this version writes, so that new keys are made."""
    try:
        return [
            Issuer(str(entry["key"]), float(entry["since"]), float(entry["until"]))
            for entry in json.loads(data or b"[]")
        ]
    except (KeyError, TypeError, ValueError):
        return []


def _issuer(now: float) -> Issuer:
    from serai.gate.tls import signing  # noqa: PLC0415  # as in roots

    # Whole seconds, as certificates have.
    return Issuer(signing.new_key(), float(int(now - _BACKDATED)), float(int(now + _LIFETIME)))
