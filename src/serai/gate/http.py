"""The HTTP proxy of a session: CONNECT, and requests with an absolute URI (RFC 9112, 3.2).

The gate reads a request's head strictly (heads) and writes a new request (exchange). So no request
that two parsers could read in two ways gets past here. The bytes of a tunnel, and those after a
switch of protocols, are carried unchanged.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus

import h11

from serai.gate import denials, heads
from serai.gate.egress import Connection, Egress
from serai.gate.errors import Denied, Unreachable, words
from serai.gate.exchange import Exchange
from serai.gate.heads import BadRequest, Head
from serai.gate.relay import CHUNK, hang_up, within
from serai.gate.settings import Limits
from serai.gate.upstream import Line

# Reading a head takes the whole gate's time: 64 KiB of empty headers took 0.2 s.
MOST_HEADERS = 256
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _Refused(Exception):  # noqa: N818  # an answer, not a fault
    """Ends a client's connection with this response."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self.response = response


async def serve(client: socket.socket, connection: Connection, egress: Egress) -> None:
    """Answer a client's requests, one after another. Raises OSError when it breaks."""
    loop = asyncio.get_running_loop()
    rest = b""
    while True:
        try:
            found = await _read_head(client, rest, egress)
            if found is None:
                return
            head, raw, rest = found
            connection.traffic.touched = loop.time()
            if head.connect:
                await _tunnel(client, connection, egress, head, rest)
                return
            again, rest = await _request(client, connection, egress, head, raw=raw, rest=rest)
            if not head.keep_alive and not head.body:
                return  # the client has said that it sends no further request
        except _Refused as refused:
            await loop.sock_sendall(client, refused.response)
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
            _check_size(data, length, limits)
            if length is not None:
                raw = bytes(data[:length])
                return heads.check(raw), raw, bytes(data[length:])
        except BadRequest as error:
            raise _bad_request(str(error)) from None
        searched = len(data)
        try:
            more = await within(end - loop.time(), loop.sock_recv(client, CHUNK))
        except asyncio.TimeoutError:
            if not data:
                return None
            text = f"The request's head was not complete after {timeouts.header:g} s.\n"
            raise _Refused(denials.response(HTTPStatus.REQUEST_TIMEOUT, text)) from None
        if not more:
            return None
        if not data:
            end = loop.time() + timeouts.header
        data += more


def _check_size(data: bytearray, length: int | None, limits: Limits) -> None:
    if (len(data) if length is None else length) > limits.header_bytes:
        text = f"The request's head is larger than {limits.header_bytes} bytes.\n"
    elif data.count(b"\n", 0, length) > MOST_HEADERS:
        text = f"The request has more than {MOST_HEADERS} headers.\n"
    else:
        return
    raise _Refused(denials.response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))


def _bad_request(why: str) -> _Refused:
    text = f"Serai's gate does not accept this request: {why}.\n"
    return _Refused(denials.response(HTTPStatus.BAD_REQUEST, text))


async def _open(connection: Connection, egress: Egress, head: Head) -> Line:
    """A line to a request's target. Raises the refusal that says why there is none."""
    as_json = any(
        name.lower() == b"accept" and b"application/json" in value for name, value in head.headers
    )
    try:
        return await egress.open(connection, head.target, plain=not head.connect)
    except Denied as error:
        answer = denials.denied(connection.session.name, head.target, error)
    except Unreachable as error:
        answer = denials.unreachable(head.target, error)
    raise _Refused(denials.response(*answer, as_json=as_json))


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
        except (h11.ProtocolError, OSError) as failure:
            error = words(failure)
            if exchange.answered:
                return False, b""
            if exchange.fault:
                raise _bad_request(exchange.fault) from None
            text = f"{head.target} hung up or does not speak HTTP: {error}.\n"
            raise _Refused(denials.response(HTTPStatus.BAD_GATEWAY, text)) from None
        finally:
            egress.closed(connection, exchange.fault or error)
    return again, exchange.rest
