"""The HTTP proxy of a session: CONNECT, and requests with an absolute URI (RFC 9112, 3.2).

The gate reads a request's head strictly (heads) and writes a new request (exchange). So no request
that two parsers could read in two ways gets past here. The bytes of a tunnel, and those after a
switch of protocols, are carried unchanged.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from http import HTTPStatus
from typing import Any

from serai.gate import denials, heads
from serai.gate.egress import Connection, Egress
from serai.gate.errors import Denied, Unreachable, words
from serai.gate.exchange import H11_PIECE, Exchange
from serai.gate.heads import BadRequest, Head, TooLarge
from serai.gate.relay import hang_up, within
from serai.gate.upstream import Line

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _Refused(Exception):  # noqa: N818  # an answer, not a fault
    """Ends a client's connection with this answer; ``charged`` as a denial is."""

    def __init__(
        self,
        status: HTTPStatus,
        text: str,
        data: dict[str, Any] | None = None,
        *,
        as_json: bool = False,
        charged: bool = False,
    ) -> None:
        super().__init__()
        self.charged = charged
        self._response = functools.partial(denials.response, status, text, data, as_json=as_json)

    def response(self, method: str) -> bytes:
        """The response to a request of that method."""
        return self._response(bodyless=method == "HEAD")


async def serve(client: socket.socket, connection: Connection, egress: Egress) -> None:
    """Answer a client's requests, one after another. Raises OSError when it breaks."""
    loop = asyncio.get_running_loop()
    rest = b""
    while True:
        method = ""
        try:
            found = await _read_head(client, rest, egress)
            if found is None:
                return
            head, raw, rest = found
            method = head.method
            connection.traffic.touched = loop.time()
            if head.connect:
                await _tunnel(client, connection, egress, head, rest)
                return
            again, rest = await _request(client, connection, egress, head, raw=raw, rest=rest)
            if not head.keep_alive and not head.body:
                return  # the client has said that it sends no further request
        except _Refused as refused:
            if refused.charged:
                await asyncio.sleep(connection.session.allowance.wait())
            await loop.sock_sendall(client, refused.response(method))
            again = False
        if not again:
            await hang_up(client)
            return


async def _read_head(
    client: socket.socket, start: bytes, egress: Egress
) -> tuple[Head, bytes, bytes] | None:
    """The next request's head, parsed and raw, and the bytes after it; None if there is none."""
    loop = asyncio.get_running_loop()
    timeouts, limits = egress.settings.timeouts, egress.settings.limits
    data, searched = bytearray(start), 0
    end = loop.time() + (timeouts.header if data else timeouts.idle)
    while True:
        if not searched and data.startswith(b"\r\n"):
            del data[:2]  # RFC 9112, 2.2: left over from the request before
        try:
            length = heads.head_length(data, searched)
            heads.check_size(data, length, limits.header_bytes)
            if length is not None:
                raw = heads.encoded(bytes(data[:length]))
                return heads.check(raw), raw, bytes(data[length:])
        except TooLarge as error:
            raise _too_large(error) from None
        except BadRequest as error:
            raise _bad_request(str(error)) from None
        searched = len(data)
        try:
            more = await within(end - loop.time(), loop.sock_recv(client, H11_PIECE))
        except asyncio.TimeoutError:
            if not data:
                return None
            text = f"The request's head was not complete after {timeouts.header:g} s.\n"
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, text) from None
        if not more:
            return None
        if not data:
            end = loop.time() + timeouts.header
        data += more


def _too_large(error: TooLarge) -> _Refused:
    text = f"The request's {error}.\n"
    return _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text, charged=True)


def _bad_request(why: str) -> _Refused:
    text = f"Serai's gate does not accept this request: {why}.\n"
    return _Refused(HTTPStatus.BAD_REQUEST, text, charged=True)


async def _open(connection: Connection, egress: Egress, head: Head) -> Line:
    """A line to a request's target. Raises the refusal that says why there is none."""
    as_json = any(
        name.lower() == b"accept" and b"application/json" in value for name, value in head.headers
    )
    try:
        # A switch of protocols goes through a tunnel of the parent proxy: one that stays in HTTP
        # would read what follows as requests, past the policy.
        plain = not head.connect and head.upgrade is None
        return await egress.open(connection, head.target, plain=plain)
    except Denied as error:
        answer = denials.denied(connection.session.name, head.target, error)
    except Unreachable as error:
        answer = denials.unreachable(head.target, error)
    raise _Refused(*answer, as_json=as_json)


async def _tunnel(
    client: socket.socket, connection: Connection, egress: Egress, head: Head, rest: bytes
) -> None:
    line = await _open(connection, egress, head)
    with line.sock:
        await egress.carry(client, connection, line, _ESTABLISHED, rest)


async def _request(
    client: socket.socket,
    connection: Connection,
    egress: Egress,
    head: Head,
    *,
    raw: bytes,
    rest: bytes,
) -> tuple[bool, bytes]:
    """One request and its response; whether another may follow, and its first bytes."""
    line = await _open(connection, egress, head)
    error = ""
    with line.sock:
        longest = egress.settings.limits.header_bytes
        exchange = Exchange(
            client, line, connection, head, raw=raw, rest=rest, longest_head=longest
        )
        try:
            again = await exchange.run()
        except Exception as failure:  # whatever an origin server can cause is its fault
            error = words(failure)
            if exchange.answered:
                return False, b""
            if exchange.fault:
                raise _bad_request(exchange.fault) from None
            text = f"{head.target} gave no answer that can be passed on: {error}.\n"
            raise _Refused(HTTPStatus.BAD_GATEWAY, text) from None
        finally:
            egress.closed(connection, exchange.fault or error)
    return again, exchange.rest
