"""The HTTP proxy of a session: CONNECT, and requests with an absolute URI (RFC 9112, 3.2).

A request's head is checked strictly (heads) before h11 sees it. What goes on is written anew by
h11, so nothing that two parsers could read in two ways gets past here. A tunnel, and what follows
a switch of protocols, is carried as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from http import HTTPStatus

import h11

from serai.gate import answers, heads
from serai.gate.egress import Connection, Egress
from serai.gate.errors import Denied, Unreachable
from serai.gate.heads import BadRequest, Head
from serai.gate.relay import CHUNK, relay
from serai.gate.upstream import Line

_HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"}
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_SWITCHING = 101

Headers = list[tuple[bytes, bytes]]


class _Refused(Exception):  # noqa: N818  # an answer, not a fault
    """Ends a client's connection with this response."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self.response = response


async def serve(client: socket.socket, connection: Connection, egress: Egress) -> None:
    """Answer a client's requests, one after another. Raises OSError when it breaks."""
    rest = b""
    while True:
        try:
            head, raw, rest = await _read_head(client, rest, egress)
            if head is None:
                return
            if head.connect:
                await _tunnel(client, connection, egress, head, rest)
                return
            again, rest = await _request(client, connection, egress, head, raw + rest)
        except _Refused as refused:
            await _hang_up(client, refused.response)
            return
        if not again:
            return


async def _read_head(
    client: socket.socket, data: bytes, egress: Egress
) -> tuple[Head | None, bytes, bytes]:
    """The next request's head, parsed and raw, and what came after it; None at the end."""
    loop = asyncio.get_running_loop()
    settings = egress.settings
    limit = settings.timeouts.header if data else settings.timeouts.idle
    while True:
        data = data.removeprefix(b"\r\n")  # RFC 9112, 2.2: left over from the request before
        try:
            length = heads.head_length(data)
            if (len(data) if length is None else length) > settings.limits.header_bytes:
                text = f"The request's head is larger than {settings.limits.header_bytes} bytes.\n"
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise _Refused(answers.response(status, text))
            if length is not None:
                return heads.check(data[:length]), data[:length], data[length:]
        except BadRequest as error:
            text = f"Serai's gate does not take this request: {error}.\n"
            raise _Refused(answers.response(HTTPStatus.BAD_REQUEST, text)) from None
        try:
            more = await asyncio.wait_for(loop.sock_recv(client, CHUNK), limit)
        except asyncio.TimeoutError:
            if not data:
                return None, b"", b""
            text = f"The request's head was not whole after {limit:g} s.\n"
            raise _Refused(answers.response(HTTPStatus.REQUEST_TIMEOUT, text)) from None
        if not more:
            return None, b"", b""
        data += more
        limit = settings.timeouts.header


async def _open(connection: Connection, egress: Egress, head: Head) -> Line:
    """A line to a request's target, or the refusal that says why there is none."""
    as_json = any(
        name.lower() == b"accept" and b"application/json" in value for name, value in head.headers
    )
    try:
        return await egress.open(connection, head.target, plain=not head.connect)
    except Denied as error:
        answer = answers.denied(connection.session.name, head.target, error)
    except Unreachable as error:
        egress.closed(connection, str(error))
        answer = answers.unreachable(head.target, error)
    raise _Refused(answers.response(*answer, as_json=as_json))


async def _tunnel(
    client: socket.socket, connection: Connection, egress: Egress, head: Head, rest: bytes
) -> None:
    line = await _open(connection, egress, head)
    with line.sock:
        await egress.carry(client, connection, line, _ESTABLISHED, rest)


async def _request(
    client: socket.socket, connection: Connection, egress: Egress, head: Head, data: bytes
) -> tuple[bool, bytes]:
    """One request and its response; whether another may follow, and what came of it already."""
    line = await _open(connection, egress, head)
    error = "cut"
    with line.sock:
        exchange = _Exchange(client, line, connection, head, data)
        try:
            again = await exchange.run()
            error = ""
        except (h11.RemoteProtocolError, OSError) as failure:
            error = str(failure)
            if exchange.answered:
                return False, b""
            text = f"{head.target} hung up or does not speak HTTP.\n"
            raise _Refused(answers.response(HTTPStatus.BAD_GATEWAY, text)) from None
        finally:
            egress.closed(connection, error)
    return again, exchange.rest


class _Exchange:
    """A request and its response between two h11 machines, one for each side."""

    def __init__(
        self, client: socket.socket, line: Line, connection: Connection, head: Head, data: bytes
    ) -> None:
        self.answered = False
        self.rest = b""
        self._sockets = (client, line.sock)
        self._line = line
        self._traffic = connection.traffic
        self._head = head
        self._theirs = h11.Connection(h11.SERVER)
        self._ours = h11.Connection(h11.CLIENT)
        self._theirs.receive_data(data)
        self._loop = asyncio.get_running_loop()

    async def run(self) -> bool:
        """Carry both; True if the client may go on. Raises h11.RemoteProtocolError or OSError."""
        await self._send(self._request_head())
        body = asyncio.ensure_future(self._body())
        try:
            switched = await self._response()
            if switched:
                body.cancel()
                await asyncio.gather(body, return_exceptions=True)
                await self._switch()
                return False
            whole = body.done() and body.exception() is None
        finally:
            body.cancel()
            await asyncio.gather(body, return_exceptions=True)
        if not whole or self._theirs.our_state is not h11.DONE or not self._head.keep_alive:
            return False
        self.rest = bytes(self._theirs.trailing_data[0])
        return True

    def _request_head(self) -> h11.Request:
        event = self._theirs.next_event()
        if not isinstance(event, h11.Request):
            raise h11.RemoteProtocolError("no request")
        head = self._head
        target = f"http://{head.target}{head.path}" if self._line.absolute else head.path
        headers = [*heads.forwarded(head), *self._line.headers]
        if head.upgrade is None:
            # One connection a request: nothing of one is ever taken for the next one's.
            headers.append((b"Connection", b"close"))
        return h11.Request(method=head.method, target=target, headers=headers)

    async def _send(self, event: h11.Event) -> None:
        data = self._ours.send(event)
        if data:
            await self._loop.sock_sendall(self._sockets[1], data)

    async def _answer(self, event: h11.Event) -> None:
        data = self._theirs.send(event)
        if data:
            await self._loop.sock_sendall(self._sockets[0], data)

    async def _body(self) -> None:
        """From the client, to its end."""
        while True:
            event = self._theirs.next_event()
            if event is h11.NEED_DATA:
                self._theirs.receive_data(await self._loop.sock_recv(self._sockets[0], CHUNK))
                continue
            if isinstance(event, h11.Data):
                self._traffic.sent += len(event.data)
                self._traffic.touched = self._loop.time()
            if isinstance(event, h11.Data | h11.EndOfMessage):
                await self._send(event)
            if not isinstance(event, h11.Data):
                return

    async def _response(self) -> bool:
        """From the other side, to its end; True if it switches protocols."""
        turn = 0
        while True:
            event = self._ours.next_event()
            if event is h11.NEED_DATA:
                self._ours.receive_data(await self._loop.sock_recv(self._sockets[1], CHUNK))
                turn += 1
                if turn % 16 == 0:
                    await asyncio.sleep(0)
                continue
            if isinstance(event, h11.Data):
                self._traffic.received += len(event.data)
                self._traffic.touched = self._loop.time()
                await self._answer(event)
            elif isinstance(event, h11.InformationalResponse):
                switch = event.status_code == _SWITCHING
                if self._head.version == "1.1":
                    await self._answer(_without_hops(event, keep_upgrade=switch))
                if switch:
                    self.answered = True
                    return True
            elif isinstance(event, h11.Response):
                self.answered = True
                await self._answer(_without_hops(event, keep_upgrade=False))
            elif isinstance(event, h11.EndOfMessage):
                await self._answer(event)
                return False
            else:
                raise h11.RemoteProtocolError("the connection was closed before an answer")

    async def _switch(self) -> None:
        client, sock = self._sockets
        sent, received = self._theirs.trailing_data[0], self._ours.trailing_data[0]
        for sink, data in ((sock, sent), (client, received)):
            if data:
                await self._loop.sock_sendall(sink, data)
        self._traffic.sent += len(sent)
        self._traffic.received += len(received)
        await relay(client, sock, self._traffic)


def _without_hops(
    event: h11.InformationalResponse | h11.Response, *, keep_upgrade: bool
) -> h11.InformationalResponse | h11.Response:
    """A response as a proxy passes it on (RFC 9110, 7.6.1); h11 sees to its framing."""
    named = {
        token.strip().lower()
        for name, value in event.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    drop = (_HOP_BY_HOP | named) - ({b"connection", b"upgrade"} if keep_upgrade else set())
    kept = [(name, value) for name, value in event.headers.raw_items() if name.lower() not in drop]
    return type(event)(status_code=event.status_code, headers=kept, reason=event.reason)


async def _hang_up(client: socket.socket, response: bytes) -> None:
    """Answer and close, but not with a reset, which would take the answer from who still writes."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, response)
    client.shutdown(socket.SHUT_WR)
    with contextlib.suppress(asyncio.TimeoutError, OSError):
        await asyncio.wait_for(_drain(client, 1 << 20), 2)


async def _drain(client: socket.socket, most: int) -> None:
    loop = asyncio.get_running_loop()
    while most > 0:
        data = await loop.sock_recv(client, CHUNK)
        if not data:
            return
        most -= len(data)
