"""What a session's allowance is charged for, apart from denials: all that is malformed."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from serai.gate import http, socks
from serai.gate.allowance import Allowance
from serai.gate.audit.writer import Log
from serai.gate.connections.dial import Resolve
from serai.gate.connections.lookups import Lookups
from serai.gate.connections.relay import Traffic
from serai.gate.egress import Connection, Egress, Session
from serai.gate.policy.rules import Rules
from serai.gate.profiles import policy
from serai.gate.settings import Settings


class Counted(Allowance):
    """An allowance without an end that knows how much was taken."""

    taken = 0

    def wait(self) -> float:
        self.taken += 1
        return 0.0


async def taken(protocol: str, message: bytes) -> int:
    allowance = Counted(1, 1)
    session = Session("blue", 70000, policy({}), Rules(), allowance, Lookups(1))
    connection = Connection(session, protocol, Traffic(0.0), opened=0.0)
    egress = Egress(Settings(), cast(Log, None), cast(Resolve, None))
    serve = {"http": http.serve, "socks": socks.serve}[protocol]
    client, inner = socket.socketpair()
    with client, inner:
        inner.setblocking(False)
        client.sendall(message)
        client.shutdown(socket.SHUT_WR)
        await serve(inner, connection, egress)
    return allowance.taken


@pytest.mark.parametrize(
    ("protocol", "message", "charged"),
    [
        ("http", b"GET / HTTP/1.1\r\n\r\n", 1),
        ("http", b"GET http://a.test/ HTTP/1.1\n", 1),
        ("http", b"GET http://a.test/ HTTP/1.1\r\n" + b"a: b\r\n" * 300, 1),
        ("http", b"", 0),
        ("socks", b"\x04", 1),
        ("socks", b"\x05\x01\x00\x05\x01\x01", 1),
        ("socks", b"\x05\x01\x02", 0),
        ("socks", b"", 0),
    ],
)
def test_what_is_malformed_is_charged(protocol: str, message: bytes, charged: int) -> None:
    assert asyncio.run(taken(protocol, message)) == charged


def test_one_is_taken_only_if_there_is_one() -> None:
    async def main() -> list[bool]:
        allowance = Allowance(1e-9, 2)
        return [allowance.take() for _ in range(4)]

    assert asyncio.run(main()) == [True, True, False, False]
