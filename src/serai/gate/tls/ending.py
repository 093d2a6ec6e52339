"""Where the gate ends TLS, and how: to the client it is the host, to the host it is the client.

It ends TLS only for hosts with a binding, or where a rule is about requests. Everything else stays
a tunnel whose bytes nobody here reads.
"""

from __future__ import annotations

import functools
import socket
import ssl
from pathlib import Path

from serai.common.errors import SeraiError
from serai.gate import settings
from serai.gate.connections.share import Share
from serai.gate.connections.upstream import Line
from serai.gate.messages import injection
from serai.gate.policy import rules
from serai.gate.policy.hosts import Target
from serai.gate.policy.rules import Rules
from serai.gate.tls.authority import Authority
from serai.gate.tls.wires import TlsWire

VM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
"""What the VM trusts: Debian's package ca-certificates."""


class TlsEnding:
    """Ends TLS with the certificates of ``authority``; without one it cannot, and nothing passes
    that would have to be looked into."""

    def __init__(self, given: settings.Tls, authority: Authority | None) -> None:
        self._never = Rules(allow=tuple(map(rules.rule, given.never)))
        self._roots = given.roots
        self._authority = authority

    def never(self, target: Target) -> bool:
        """Whether an administrator says that this host's TLS is never ended."""
        return rules.decide(self._never, target)[0][1].allowed

    def ends(self, policy: Rules, target: Target) -> bool:
        """Whether the gate ends the TLS of a session with this policy to ``target``."""
        if not isinstance(target.host, str) or self.never(target):
            return False
        return bool(injection.bound(policy.bind, target)) or rules.sees_requests(policy, target)

    async def accept(
        self, client: socket.socket, share: Share, target: Target, early: bytes
    ) -> TlsWire:
        """Be ``target`` to a client, of whom ``early`` has come. Raises OSError or SeraiError."""
        if self._authority is None:
            raise SeraiError("this VM has no certificates of its own", "see serai-gate.service")
        name = str(target.host)
        context = self._authority.context(name)
        context.sni_callback = functools.partial(_named, name)
        wire = TlsWire(client, context, share, name=None, early=early)
        await wire.handshake()
        return wire

    async def connect(self, line: Line, share: Share, target: Target) -> TlsWire:
        """Be a client of ``target``, whose certificate must be good for its name. Raises OSError:
        ssl.SSLCertVerificationError if it is not."""
        name = str(target.host)
        wire = TlsWire(line.sock, self._client, share, name=name, early=line.early)
        await wire.handshake()
        return wire

    @functools.cached_property
    def _client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._roots or None)
        # Or who can cut the connection could shorten an answer, and nobody would see it.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        # A session may choose its server, which must not choose what keeps the gate busy either.
        context.set_ecdh_curve("prime256v1")
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!SHA1")
        context.set_alpn_protocols(["http/1.1"])
        return context


def _named(
    name: str, _tls: ssl.SSLObject, asked: str | None, _context: ssl.SSLContext
) -> int | None:
    """A client that names another host than the one it asked the proxy for gets no certificate."""
    if asked is None or asked.lower() == name:
        return None
    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
