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
from serai.gate.errors import Denied, Unreachable, words
from serai.gate.heads import BadRequest, Head
from serai.gate.relay import CHUNK, TURN, hang_up, relay, within
from serai.gate.settings import Limits
from serai.gate.upstream import Line

# Reading a head takes the whole gate's time: 64 KiB of empty headers took 0.2 s.
MOST_HEADERS = 256
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
}
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_SWITCHING = 101
_BODYLESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

Headers = list[tuple[bytes, bytes]]


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
            again, rest = await _request(client, connection, egress, head, raw + rest)
        except _Refused as refused:
            await loop.sock_sendall(client, refused.response)
            again = False
        if not again:
            await hang_up(client)
            return


async def _read_head(
    client: socket.socket, start: bytes, egress: Egress
) -> tuple[Head, bytes, bytes] | None:
    """The next request's head, parsed and raw, and what came after it; None if there is none."""
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
            text = f"The request's head was not whole after {timeouts.header:g} s.\n"
            raise _Refused(answers.response(HTTPStatus.REQUEST_TIMEOUT, text)) from None
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
    raise _Refused(answers.response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))


def _bad_request(why: str) -> _Refused:
    text = f"Serai's gate does not take this request: {why}.\n"
    return _Refused(answers.response(HTTPStatus.BAD_REQUEST, text))


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
    error = ""
    with line.sock:
        longest = egress.settings.limits.header_bytes
        exchange = _Exchange(client, line, connection, head, data, longest_head=longest)
        try:
            again = await exchange.run()
        except (h11.ProtocolError, OSError) as failure:
            error = words(failure)
            if exchange.answered:
                return False, b""
            if exchange.fault:
                raise _bad_request(exchange.fault) from None
            text = f"{head.target} hung up or does not speak HTTP: {error}.\n"
            raise _Refused(answers.response(HTTPStatus.BAD_GATEWAY, text)) from None
        finally:
            egress.closed(connection, exchange.fault or error)
    return again, exchange.rest


class _Exchange:
    """A request and its response between two h11 machines, one for each side.

    ``answered`` says that the client has had at least the head of a response, ``fault`` what is
    wrong with the request's body.
    """

    def __init__(
        self,
        client: socket.socket,
        line: Line,
        connection: Connection,
        head: Head,
        data: bytes,
        *,
        longest_head: int,
    ) -> None:
        self.answered = False
        self.fault = ""
        self.rest = b""
        self._client = client
        self._line = line
        self._traffic = connection.traffic
        self._head = head
        self._theirs = h11.Connection(h11.SERVER)
        self._ours = h11.Connection(h11.CLIENT, max_incomplete_event_size=longest_head)
        self._theirs.receive_data(data)
        self._loop = asyncio.get_running_loop()
        self._events = 0
        self._held = b""
        self._left = 0

    async def run(self) -> bool:
        """Carry both; True if the client may go on. Raises h11.ProtocolError or OSError."""
        await self._send(self._request_head())
        if self._line.early:
            self._ours.receive_data(self._line.early)
        body = asyncio.ensure_future(self._body())
        try:
            await asyncio.sleep(0)  # what came with the head goes first
            try:
                switched = await self._response(body)
            except h11.ProtocolError:
                await self._flush()
                raise
            if switched:
                await self._switch()
                return False
            whole = _whole(body)
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
            await self._loop.sock_sendall(self._line.sock, data)

    async def _answer(self, event: h11.Event) -> None:
        pieces = [self._held, *(self._theirs.send_with_data_passthrough(event) or ())]
        self._held = b""
        pieces = [piece for piece in pieces if piece]
        if isinstance(event, h11.Response):
            # Most often what follows has come with it: that is one packet then, not two.
            self._held = b"".join(pieces)
        elif pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            await self._loop.sock_sendall(self._client, data)

    async def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            await self._loop.sock_sendall(self._client, data)

    async def _in_turn(self) -> None:
        """Let others have their turn: neither receiving nor sending need ever wait."""
        self._events += 1
        if self._events % TURN == 0:
            await asyncio.sleep(0)

    async def _body(self) -> None:
        """From the client, to its end. Raises OSError if the other side takes no more of it: that
        side may have an answer all the same.
        """
        try:
            while True:
                await self._in_turn()
                event = self._theirs.next_event()
                if event is h11.NEED_DATA:
                    self._theirs.receive_data(await self._received())
                elif isinstance(event, h11.Data):
                    self._traffic.sent += len(event.data)
                    self._traffic.touched = self._loop.time()
                    await self._send(event)
                else:
                    # Without the trailers, which could pass for headers (RFC 9110, 6.5.1).
                    await self._send(h11.EndOfMessage())
                    return
        except h11.RemoteProtocolError as error:
            # It will never be whole, and nobody shall wait for an answer to it.
            self.fault = f"its body is not as it should be: {words(error)}"
            with contextlib.suppress(OSError):
                self._line.sock.shutdown(socket.SHUT_RDWR)

    async def _received(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._client, CHUNK)
        except OSError:
            return b""

    async def _response(self, body: asyncio.Future[None]) -> bool:
        """From the other side, to its end; True if it switches protocols."""
        while True:
            await self._in_turn()
            event = self._ours.next_event()
            if event is h11.NEED_DATA:
                await self._flush()
                if self._left > 0:
                    await self._straight()
                    return False
                self._ours.receive_data(await self._loop.sock_recv(self._line.sock, CHUNK))
            elif isinstance(event, h11.Data):
                self._left -= len(event.data)
                await self._receive(event)
            elif isinstance(event, h11.InformationalResponse):
                switch = event.status_code == _SWITCHING
                if switch and not body.done():
                    raise h11.RemoteProtocolError("protocols were switched amid the request")
                self.answered = switch
                if self._head.version == "1.1":
                    await self._answer(_without_hops(event, keep_upgrade=switch))
                if switch:
                    return True
            elif isinstance(event, h11.Response):
                await self._begin(event, early=not _whole(body))
            elif isinstance(event, h11.EndOfMessage):
                await self._answer(h11.EndOfMessage())
                return False
            else:
                raise h11.RemoteProtocolError("the connection was closed before an answer")

    async def _receive(self, data: h11.Data) -> None:
        self._traffic.received += len(data.data)
        self._traffic.touched = self._loop.time()
        await self._answer(data)

    async def _straight(self) -> None:
        """What is left of a body of a known length: h11 would copy it three times over."""
        while self._left > 0:
            await self._in_turn()
            data = await self._loop.sock_recv(self._line.sock, min(CHUNK, self._left))
            if not data:
                raise h11.RemoteProtocolError("the connection was closed amid an answer")
            self._left -= len(data)
            await self._receive(h11.Data(data=data))
        await self._answer(h11.EndOfMessage())

    async def _begin(self, response: h11.Response, *, early: bool) -> None:
        if self._line.absolute and response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise h11.RemoteProtocolError("the parent proxy takes no such credentials")
        passed = _without_hops(response, keep_upgrade=False)
        if early:
            # What is left of the request will not be read.
            headers = [*passed.headers.raw_items(), (b"Connection", b"close")]
            passed = h11.Response(
                status_code=passed.status_code, headers=headers, reason=passed.reason
            )
        self.answered = True
        self._left = _length(self._head.method, response)
        await self._answer(passed)

    async def _switch(self) -> None:
        sent, received = self._theirs.trailing_data[0], self._ours.trailing_data[0]
        for sink, data in ((self._line.sock, sent), (self._client, received)):
            if data:
                await self._loop.sock_sendall(sink, data)
        self._traffic.sent += len(sent)
        self._traffic.received += len(received)
        await relay(self._client, self._line.sock, self._traffic)


def _whole(body: asyncio.Future[None]) -> bool:
    return body.done() and not body.cancelled() and body.exception() is None


def _length(method: str, response: h11.Response) -> int:
    """The bytes of a response's body, as h11 reads its head (RFC 9112, 6.3); 0 if it says none."""
    headers = dict(response.headers)
    if method == "HEAD" or response.status_code in _BODYLESS or b"transfer-encoding" in headers:
        return 0
    return int(headers.get(b"content-length", b"0"))


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
