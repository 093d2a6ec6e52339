"""The HTTP proxy of a session: CONNECT, and requests with an absolute URI (RFC 9112, 3.2).

Where the gate ends TLS, it answers the requests in it likewise (``serve_ended``). It reads a
request's head strictly (heads), puts secrets in (injection), and writes a new request (exchange).
So no request that two parsers could read in two ways gets past here. The bytes of a tunnel, and
those after a switch of protocols, are carried unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from serai.common.errors import SeraiError
from serai.gate import denials
from serai.gate.connections.relay import hang_up, within
from serai.gate.connections.upstream import Line
from serai.gate.egress import Connection, Egress, Request
from serai.gate.errors import Denied, Unreachable, words
from serai.gate.exchange import H11_PIECE, Exchange
from serai.gate.messages import heads, injection
from serai.gate.messages.heads import BadRequest, Head, TooLarge
from serai.gate.policy import rules
from serai.gate.policy.hosts import Target
from serai.gate.policy.rules import Verdict
from serai.gate.tls.wires import PlainWire, Wire

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
    await _Dialogue(PlainWire(client), connection, egress).run()


async def serve_ended(
    client: socket.socket, connection: Connection, egress: Egress, target: Target, early: bytes
) -> None:
    """Be ``target`` to a client that has a tunnel there, for TLS is ended for it.

    ``early`` is what the client sent already. Raises OSError when it breaks.
    """
    try:
        limit, share = egress.settings.timeouts.header, connection.session.share
        wire = await within(limit, egress.ending.accept(client, share, target, early))
    except (OSError, asyncio.TimeoutError, SeraiError) as error:
        # Mostly a client that does not know our certificate: else nobody would see why.
        why = f"TLS with the client failed: {words(error) or 'it took too long'}"
        with contextlib.suppress(Unreachable):
            egress.refuse(connection, target, Verdict(False, "TLS", why), None)
        await asyncio.sleep(connection.session.allowance.wait())
        return
    dialogue = _Dialogue(wire, connection, egress, target)
    try:
        await dialogue.run()
    finally:
        dialogue.close()


class _Dialogue:
    """A client's requests and their responses. ``origin`` is where all of them go, in TLS."""

    def __init__(
        self, client: Wire, connection: Connection, egress: Egress, origin: Target | None = None
    ) -> None:
        self._client = client
        self._connection = connection
        self._egress = egress
        self._origin = origin
        self._rest = b""
        self._kept: tuple[Line, Wire] | None = None

    def close(self) -> None:
        """Let go of the connection to the origin server."""
        if self._kept is not None:
            self._kept[0].sock.close()
            self._kept = None

    async def run(self) -> None:
        """Answer until either side is at its end. Raises OSError when it breaks."""
        again = True
        while again:
            method = ""
            try:
                found = await self._read_head()
                if found is None:
                    return
                head, raw = found
                method = head.method
                self._connection.traffic.touched = asyncio.get_running_loop().time()
                if head.connect:
                    await self._tunnel(head)
                    return
                again = await self._request(head, raw)
                if not head.keep_alive and not head.body:
                    return  # the client has said that it sends no further request
            except _Refused as refused:
                if refused.charged:
                    await asyncio.sleep(self._connection.session.allowance.wait())
                await self._client.sendall(refused.response(method))
                again = False
        await self._client.end()
        await hang_up(self._client.sock)

    async def _read_head(self) -> tuple[Head, bytes] | None:
        """The next request's head, parsed and raw; None if there is none."""
        loop = asyncio.get_running_loop()
        timeouts, limits = self._egress.settings.timeouts, self._egress.settings.limits
        data, searched = bytearray(self._rest), 0
        end = loop.time() + (timeouts.header if data else timeouts.idle)
        while True:
            if not searched and data.startswith(b"\r\n"):
                del data[:2]  # RFC 9112, 2.2: left over from the request before
            try:
                length = heads.head_length(data, searched)
                heads.check_size(data, length, limits.header_bytes)
                if length is not None:
                    raw = heads.encoded(bytes(data[:length]))
                    self._rest = bytes(data[length:])
                    return heads.check(raw, self._origin), raw
            except TooLarge as error:
                raise _too_large(error) from None
            except BadRequest as error:
                raise _bad_request(str(error)) from None
            searched = len(data)
            try:
                more = await within(end - loop.time(), self._client.recv(H11_PIECE))
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

    async def _tunnel(self, head: Head) -> None:
        egress, connection, target = self._egress, self._connection, head.target
        policy = connection.session.rules
        if egress.ending.ends(policy, target) and rules.decide(policy, target)[0][1].allowed:
            # Each request is judged and noted down by itself; nothing goes out before that.
            await self._client.sendall(_ESTABLISHED)
            await serve_ended(self._client.sock, connection, egress, target, self._rest)
            return
        line = await self._open(head, None, [])
        with line.sock:
            await egress.carry(self._client.sock, connection, line, _ESTABLISHED, self._rest)

    async def _open(self, head: Head, request: Request | None, secrets: Sequence[str]) -> Line:
        """A line to a request's target. Raises the refusal that says why there is none."""
        try:
            # A switch of protocols goes through a tunnel of the parent proxy: one that stays in
            # HTTP would read what follows as requests, past the policy.
            plain = not head.connect and head.upgrade is None and not head.tls
            return await self._egress.open(
                self._connection,
                head.target,
                plain=plain,
                request=request,
                secrets=secrets,
                kept=None if self._kept is None else self._kept[0],
            )
        except Denied as error:
            answer = denials.denied(self._connection.session.name, head.target, error)
        except Unreachable as error:
            answer = denials.unreachable(head.target, error)
        raise _Refused(*answer, as_json=_wants_json(head))

    async def _request(self, head: Head, raw: bytes) -> bool:
        """One request and its response; whether another may follow."""
        request = Request(head.method, head.path, head.tls)
        if self._kept is not None and not self._kept[1].quiet():
            self.close()  # it has ended, or speaks without being asked
        if rules.sees_requests(self._connection.session.rules, head.target):
            head = heads.literal(head)
        goes, secrets = await self._with_secrets(head, request)
        line = await self._open(head, request, secrets)
        error, exchange = "", None
        try:
            wire = await self._wire(line, head)
            exchange = Exchange(
                self._client,
                wire,
                line if not head.tls else dataclasses.replace(line, early=b""),
                self._connection,
                goes,
                raw=raw,
                rest=self._rest,
                longest_head=self._egress.settings.limits.header_bytes,
            )
            again = await exchange.run()
            self._rest = exchange.rest
            self._kept = (line, wire) if exchange.kept else None
        except Exception as failure:  # whatever an origin server can cause is its fault
            error = words(failure)
            if exchange is not None and exchange.answered:
                return False
            if exchange is not None and exchange.fault:
                raise _bad_request(exchange.fault) from None
            text = f"{head.target} gave no answer that can be passed on: {error}.\n"
            raise _Refused(HTTPStatus.BAD_GATEWAY, text) from None
        finally:
            if exchange is None or not exchange.kept:
                line.sock.close()
                self._kept = None
            fault = "" if exchange is None else exchange.fault
            status = 0 if exchange is None else exchange.status
            self._egress.closed(self._connection, fault or error, status)
        return again

    async def _wire(self, line: Line, head: Head) -> Wire:
        if self._kept is not None:
            return self._kept[1]
        if not head.tls:
            return PlainWire(line.sock)
        limit, share = self._egress.settings.timeouts.dial, self._connection.session.share
        return await within(limit, self._egress.ending.connect(line, share, head.target))

    async def _with_secrets(self, head: Head, request: Request) -> tuple[Head, list[str]]:
        """The head with the secrets that are bound to its host, and their names.

        Raises the refusal of a request that must not have them, or that has others' placeholders.
        """
        session, store = self._connection.session, self._egress.secrets
        bindings = injection.bound(session.rules.bind, head.target)
        names = [each.secret for each in bindings]
        try:
            if not head.tls:
                injection.refuse_plain(head, session.rules.bind)
                return head, []
            if store is None:
                return injection.without_store(head, bindings), []
            values = {name: store.value(name) for name in names}
            known = {name: store.placeholder(session.uid, name) for name in names}
            goes, used = injection.inject(head, bindings, values, known)
            for name in used:
                store.touch(name)
            return goes, used
        except injection.NotInjected as error:
            denial = Denied(f"secret {error.secret}", str(error))
        with contextlib.suppress(Unreachable):
            verdict = Verdict(False, denial.rule, denial.reason)
            self._egress.refuse(self._connection, head.target, verdict, request)
        await asyncio.sleep(session.allowance.wait())
        answer = denials.denied(session.name, head.target, denial)
        raise _Refused(*answer, as_json=_wants_json(head))


def _wants_json(head: Head) -> bool:
    return any(
        name.lower() == b"accept" and b"application/json" in value for name, value in head.headers
    )


def _too_large(error: TooLarge) -> _Refused:
    text = f"The request's {error}.\n"
    return _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text, charged=True)


def _bad_request(why: str) -> _Refused:
    text = f"Serai's gate does not accept this request: {why}.\n"
    return _Refused(HTTPStatus.BAD_REQUEST, text, charged=True)
