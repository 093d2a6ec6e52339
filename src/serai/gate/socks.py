"""The SOCKS5 proxy of a session (RFC 1928): CONNECT by name, IPv4 or IPv6; nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from serai.gate import http
from serai.gate.connections.relay import hang_up, within
from serai.gate.egress import Connection, Egress
from serai.gate.errors import Denied, Unreachable
from serai.gate.messages import socks5
from serai.gate.policy import hosts, rules

T = TypeVar("T")
_SUCCEEDED = socks5.reply(socks5.SUCCEEDED)
_REPLIES = {
    Unreachable.REFUSED: socks5.REFUSED,
    Unreachable.NO_ROUTE: socks5.NETWORK_UNREACHABLE,
    Unreachable.NO_ADDRESS: socks5.HOST_UNREACHABLE,
    Unreachable.TIMEOUT: socks5.TTL_EXPIRED,
}


class _Reader:
    """Reads whole messages until ``limit`` seconds are over; keeps the bytes after a message."""

    def __init__(self, client: socket.socket, limit: float) -> None:
        self.rest = b""
        self._client = client
        self._end = asyncio.get_running_loop().time() + limit

    async def message(self, parse: Callable[[bytes], tuple[int, T] | None]) -> T | None:
        """The next message; None if the client hangs up. Raises socks5.BadMessage, TimeoutError."""
        loop = asyncio.get_running_loop()
        while (found := parse(self.rest)) is None:
            more = await within(self._end - loop.time(), loop.sock_recv(self._client, 4096))
            if not more:
                return None
            self.rest += more
        consumed, message = found
        self.rest = self.rest[consumed:]
        return message


async def serve(client: socket.socket, connection: Connection, egress: Egress) -> None:
    """Read one request and carry it out. Raises OSError when the client breaks off."""
    reader = _Reader(client, egress.settings.timeouts.header)
    try:
        target = await _requested(client, connection, reader)
        if target is None:
            return
        connection.traffic.touched = asyncio.get_running_loop().time()
        policy = connection.session.rules
        if egress.ending.ends(policy, target) and rules.decide(policy, target)[0][1].allowed:
            await asyncio.get_running_loop().sock_sendall(client, _SUCCEEDED)
            await http.serve_ended(client, connection, egress, target, reader.rest)
            return
        line = await egress.open(connection, target, plain=False)
    except asyncio.TimeoutError:
        return
    except socks5.BadMessage as error:
        await asyncio.sleep(connection.session.allowance.wait())
        answer = socks5.reply(error.code)
    except hosts.BadHost:
        answer = socks5.reply(socks5.FAILURE)
    except Denied:
        answer = socks5.reply(socks5.NOT_ALLOWED)
    except Unreachable as failure:
        answer = socks5.reply(_REPLIES.get(failure.kind, socks5.FAILURE))
    else:
        with line.sock:
            await egress.carry(client, connection, line, _SUCCEEDED, reader.rest)
        return
    await asyncio.get_running_loop().sock_sendall(client, answer)
    await hang_up(client)


async def _requested(
    client: socket.socket, connection: Connection, reader: _Reader
) -> hosts.Target | None:
    """The target that the client asks for; None if it hangs up or cannot be served."""
    loop = asyncio.get_running_loop()
    try:
        methods = await reader.message(socks5.greeting)
    except socks5.BadMessage:  # of another protocol, whose answers we do not know
        await asyncio.sleep(connection.session.allowance.wait())
        await hang_up(client)
        return None
    if methods is None:
        return None
    if socks5.NO_AUTHENTICATION not in methods:
        await loop.sock_sendall(client, socks5.NO_METHOD)
        await hang_up(client)
        return None
    await loop.sock_sendall(client, socks5.CHOSEN)
    request = await reader.message(socks5.request)
    if request is None:
        return None
    if request.command != socks5.CONNECT:
        raise socks5.BadMessage("only CONNECT is served", socks5.COMMAND_NOT_SUPPORTED)
    return hosts.Target(hosts.host(request.host), request.port)
