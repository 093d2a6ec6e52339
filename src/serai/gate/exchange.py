"""One HTTP request and its response, between a client and the origin server.

The danger. Two programs in a row can disagree where a message ends: one trusts Content-Length, the
other Transfer-Encoding. An attacker then hides a second request inside the first (request
smuggling), and the gate would pass on a request that it never judged.

The idea. The gate copies no head. It understands a message, and writes a new one with one meaning:

- ``heads`` has read the request's head strictly before an Exchange begins. ``_request`` writes the
  head that goes to the origin server, with "Connection: close". The gate uses a connection to an
  origin server for one request only, so bytes of one request cannot become part of the next. In TLS
  that costs too much: there a connection is used again (``kept``) if the origin server has said
  where its response ends, and after a request whose body no server can take for a request.
- ``_body`` carries the request's body. One h11 connection, as a server, finds where the body ends;
  another one, as a client, frames it for the origin server. Trailers are dropped.
- ``_response`` carries the response. h11 finds where it ends, and ``responses`` writes its head and
  frames its body for the client.

How it runs. The request's body has a task of its own, because a server may answer before it has
read the whole request. Most requests have no body, and then there is no task. Both ways keep
nothing: each piece is sent before the next is read, so a slow reader slows the sender down.

Special cases:

- An early answer: if a response begins before the whole request has gone on, it is passed on, and
  the client's connection ends with it. The rest of the request is not read.
- A switch of protocols (101), for example to WebSocket: both ways become a plain relay.
- A body of a known length goes straight from one side to the other (``_counted``), because h11
  would copy it three times.
- A response's head waits for the first bytes of its body (``_held``): both go in one packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from http import HTTPStatus

import h11

from serai.gate.connections.relay import carry, relay
from serai.gate.connections.share import metered
from serai.gate.connections.upstream import Line
from serai.gate.egress import Connection
from serai.gate.errors import words
from serai.gate.messages import heads, linear, responses
from serai.gate.messages.heads import Head, TooLarge
from serai.gate.messages.responses import Body
from serai.gate.tls import wires
from serai.gate.tls.wires import Wire

linear.patch()
H11_PIECE = 16 << 10
"""Bytes that h11 is fed at once: what it takes for trailers it reads in one go."""
_INCOMPLETE = 4 << 10
"""Bytes that h11 may have of what is not complete, before the next piece: of a body's framing, or
of trailers. It is given a head as a whole."""
_MOST_INTERIM = 10
_LAST_TURN = 1.0  # seconds
_SWITCHING = 101
# Methods whose bodies every server reads. Of another one, a server may take the body for the next
# request on the connection.
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


class Exchange:
    """One request and its response.

    ``rest`` are the bytes that came of the next request. ``answered`` says that the client has got
    at least the head of a response, and ``status`` is its. ``fault`` says in words why the
    request's body is malformed. ``kept`` says in the end that the connection to the origin server
    can carry another request.
    """

    def __init__(
        self,
        client: Wire,
        origin: Wire,
        line: Line,
        connection: Connection,
        head: Head,
        *,
        raw: bytes,
        rest: bytes,
        longest_head: int,
    ) -> None:
        """``raw`` is the head as the client sent it, and ``rest`` the bytes that came after it."""
        self.answered = False
        self.status = 0
        self.fault = ""
        self.rest = rest
        self.kept = False
        self._client = client
        self._server = origin
        self._line = line
        self._traffic = connection.traffic
        self._head = head
        self._raw = raw
        self._origin = h11.Connection(h11.CLIENT, max_incomplete_event_size=_INCOMPLETE)
        self._longest_head = longest_head
        self._share = connection.session.share
        self._unread = bytearray(line.early)
        self._interim = 0
        self._loop = asyncio.get_running_loop()
        self._framing = Body.NONE
        self._close = not head.keep_alive
        self._keeps = head.tls and (not head.body or head.method in _WITH_BODY)
        self._complete = not head.body
        self._held = b""
        self._left = 0

    async def run(self) -> bool:
        """Carry both; True if the client may go on. Raises what the origin server is
        to blame for: mostly h11.ProtocolError, heads.TooLarge or OSError."""
        await self._send(self._request())
        body = await self._begin_body()
        try:
            try:
                switched = await self._response(body)
            except (h11.ProtocolError, TooLarge):
                await self._flush()
                raise
            if switched:
                await self._switch()
                return False
            if self._complete and body is not None:
                # It has all been sent: its task has only to be told, or else would be cut off.
                await asyncio.wait({body}, timeout=_LAST_TURN)
            return _whole(body) and not self._close
        finally:
            if body is not None:
                body.cancel()
                await asyncio.gather(body, return_exceptions=True)

    def _request(self) -> h11.Request:
        head = self._head
        target = f"http://{head.target}{head.path}" if self._line.absolute else head.path
        headers = [*heads.forwarded(head), *self._line.headers]
        if head.upgrade is None and not self._keeps:
            # One connection for each request: no byte of one can become part of the next.
            headers.append((b"Connection", b"close"))
        return h11.Request(method=head.method, target=target, headers=headers)

    async def _begin_body(self) -> asyncio.Task[None] | None:
        """Start to carry the request's body; most requests have none, and need no task for it."""
        if not self._head.body:
            await self._send(h11.EndOfMessage())
            return None
        body = asyncio.create_task(metered(self._share, self._body))
        await asyncio.sleep(0)  # bytes that came with the head go first
        return body

    async def _body(self) -> None:
        """Carry the body from the client to its end.

        Raises OSError if the origin server stops reading. It may still send an answer.
        """
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_INCOMPLETE)
        reader.receive_data(self._raw + self.rest)
        try:
            reader.next_event()  # the head
            left = _length(self._head)
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                await self._in_turn()
                if event is h11.NEED_DATA:
                    reader.receive_data(await self._received())
                elif isinstance(event, h11.Data):
                    self._traffic.add_sent(len(event.data))
                    left -= len(event.data)
                    # Before: the answer may be here before this task has its next turn.
                    self._complete = not left
                    await self._send(event)
            self._complete = True
            self.rest = bytes(reader.trailing_data[0])
            # Without the trailers, which could pass for headers (RFC 9110, 6.5.1).
            await self._send(h11.EndOfMessage())
        except h11.RemoteProtocolError as error:
            # The request will never be complete, so do not wait for an answer to it.
            self.fault = f"its body is malformed: {words(error)}"
            with contextlib.suppress(OSError):
                self._line.sock.shutdown(socket.SHUT_RDWR)

    async def _received(self) -> bytes:
        try:
            return await self._client.recv(H11_PIECE)
        except OSError:
            return b""

    async def _send(self, event: h11.Event) -> None:
        data = self._origin.send(event)
        if data:
            await wires.give(self._server, data, self._share)

    async def _in_turn(self) -> None:
        """Let others run now and then: a busy connection may never have to wait."""
        if self._share.overdue():
            await asyncio.sleep(0)

    async def _more(self) -> bytes:
        """What h11 is fed next: a response's whole head, which is within bounds, or a piece."""
        if self._origin.their_state is not h11.SEND_RESPONSE:
            if not self._unread:
                await self._flush()
                return await self._server.recv(H11_PIECE)
            length = H11_PIECE
        else:
            length = await self._whole_head()
        data = bytes(self._unread[:length])
        del self._unread[:length]
        waiting = self._origin.their_state is h11.SEND_RESPONSE
        return responses.readable(data) if waiting else data

    async def _whole_head(self) -> int:
        """Wait for a response's head; returns its length, or all that has come at the end."""
        unread, searched = self._unread, 0
        while True:
            length = heads.response_length(unread, searched)
            heads.check_size(unread, length, self._longest_head)
            if length is not None:
                return length
            searched = len(unread)
            more = await self._server.recv(H11_PIECE)
            if not more:
                return len(unread)
            unread += more

    async def _response(self, body: asyncio.Task[None] | None) -> bool:
        """Carry the response to its end; True if it switches protocols."""
        while True:
            await self._in_turn()
            event = self._origin.next_event()
            if event is h11.NEED_DATA:
                self._origin.receive_data(await self._more())
            elif isinstance(event, h11.Data):
                await self._pass(bytes(event.data))
            elif isinstance(event, h11.InformationalResponse):
                switch = event.status_code == _SWITCHING
                if switch and body is not None and not body.done():
                    raise h11.RemoteProtocolError("protocols were switched amid the request")
                self._interim += 1
                if self._interim > _MOST_INTERIM:
                    raise h11.RemoteProtocolError(f"over {_MOST_INTERIM} interim responses")
                if self._head.version == "1.1":
                    passed = responses.head(event, Body.NONE, close=False, upgrade=switch)
                    self.answered = switch
                    await self._answer(passed)
                if switch:
                    return True
            elif isinstance(event, h11.Response):
                self._begin(event, early=not self._complete)
                if self._framing is Body.LENGTH:
                    await self._counted()
                    await self._end()
                    return False
            elif isinstance(event, h11.EndOfMessage):
                await self._end()
                return False
            else:
                raise h11.RemoteProtocolError("the connection was closed before an answer")

    def _begin(self, response: h11.Response, *, early: bool) -> None:
        if self._line.absolute and response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise h11.RemoteProtocolError("the parent proxy takes no such credentials")
        self.status = response.status_code
        self._framing = responses.body(self._head.method, self._head.version, response)
        self._keeps = self._keeps and not early and responses.keeps(response)
        if self._framing is Body.LENGTH:
            self._left = int(dict(response.headers)[b"content-length"])
        # If it came early, the rest of the request is not read.
        self._close = self._close or early or self._framing is Body.CLOSE
        # The body's first bytes have mostly come with it: send both in one packet.
        self._held = responses.head(response, self._framing, close=self._close)
        self.answered = True

    async def _pass(self, data: bytes) -> None:
        """Send a piece of the response's body to the client."""
        self._traffic.add_received(len(data))
        await self._answer(responses.framed(data, self._framing))

    async def _counted(self) -> None:
        """Carry a body of known length without h11, which would copy it three times."""
        came = bytes(self._unread[: self._left])
        del self._unread[: self._left]
        if came:
            await self._pass(came)
        left, note = self._left - len(came), self._traffic.add_received
        if not left:
            return
        await self._flush()
        if self._head.tls:
            left = await wires.carry(self._server, self._client, left, self._share, note)
        else:
            left = await carry(self._server.sock, self._client.sock, left, self._share, note)
        if left:
            raise h11.RemoteProtocolError("the connection was closed amid an answer")

    async def _end(self) -> None:
        if self._framing is Body.CHUNKED:
            await self._answer(responses.END)
        await self._flush()
        if self._close:
            # The client need not wait for the work that is left to do here.
            with contextlib.suppress(OSError):
                await self._client.end()
        self.kept = self._keeps and not self._unread and not self._origin.trailing_data[0]

    async def _answer(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        await wires.give(self._client, data, self._share)

    async def _flush(self) -> None:
        if self._held:
            await self._answer(b"")

    async def _switch(self) -> None:
        received = self._origin.trailing_data[0] + bytes(self._unread)
        for sink, data in ((self._server, self.rest), (self._client, received)):
            if data:
                await wires.give(sink, data, self._share)
        self._traffic.sent += len(self.rest)
        self._traffic.received += len(received)
        if self._head.tls:
            await wires.relay(self._client, self._server, self._traffic, self._share)
        else:
            await relay(self._client.sock, self._server.sock, self._traffic, self._share)


def _length(head: Head) -> int:
    """How long the body is, or less than nothing if that is not known."""
    return next((int(v) for name, v in head.headers if name.lower() == b"content-length"), -1)


def _whole(body: asyncio.Task[None] | None) -> bool:
    """Whether the whole request has been sent to the origin server."""
    if body is None:
        return True
    return body.done() and not body.cancelled() and body.exception() is None
