"""A connection's bytes, as they are or in TLS: what an exchange reads and writes.

TLS is the standard library's, by its objects without I/O: so the loop's socket calls, and with them
the session's share of the loop, are the same for both kinds.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from serai.common.sockets import reset_when_closed
from serai.gate.connections.relay import Traffic
from serai.gate.connections.share import PIECE, Share, metered

_RECORDS = 16 << 10
"""Bytes: what a buffer of OpenSSL once had it keeps, and each connection has four of them."""
_AT_ONCE = 2  # records
_MUCH = 256 << 10  # bytes
_HEADER = 5
_KINDS = range(20, 25)
"""Of a record of TLS, as RFC 8446, 5.1, has them."""


class Wire(Protocol):
    """One end of a connection. What breaks it is an OSError, as ssl.SSLError is."""

    sock: socket.socket

    async def recv(self, size: int) -> bytes:
        """What has come, at most ``size`` bytes; nothing at its end."""

    async def sendall(self, data: bytes) -> None:
        """Send all of it."""

    async def end(self) -> None:
        """Tell the other side that nothing more follows."""

    def quiet(self) -> bool:
        """Whether nothing has come that nobody has read, not even the end."""


class PlainWire:
    """A socket's bytes as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def recv(self, size: int) -> bytes:
        """As Wire has it."""
        return await self._loop.sock_recv(self.sock, size)

    async def sendall(self, data: bytes) -> None:
        """As Wire has it."""
        await self._loop.sock_sendall(self.sock, data)

    async def end(self) -> None:
        """As Wire has it."""
        self.sock.shutdown(socket.SHUT_WR)

    def quiet(self) -> bool:
        """As Wire has it."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class TlsWire(PlainWire):
    """The bytes inside TLS. One task may read while another one writes.

    OpenSSL gets one record at a time, and between two of them others may run: it reads all that it
    has before it comes back, which may be thousands of records that change its keys.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        share: Share,
        *,
        name: str | None,
        early: bytes,
    ) -> None:
        """The server's end, or the client's, which expects a server of that ``name``.

        ``early`` are bytes that have come from the socket already.
        """
        super().__init__(sock)
        self._share = share
        self._unread = bytearray(early)
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._came, self._goes, server_side=name is None, server_hostname=name
        )
        self._sending = asyncio.Lock()

    async def handshake(self) -> None:
        """Agree on keys, and check the other side's certificate. Raises OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    async def recv(self, size: int) -> bytes:
        """As Wire has it. An end that the other side did not announce is an error: somebody on the
        way may have cut it off."""
        while True:
            try:
                data = self._tls.read(size)
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""
        # More of what is here already, as long as it is nobody else's turn.
        while len(data) < size and self._may_go_on():
            await self._fill()
            try:
                data += self._tls.read(size - len(data))
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break  # the next call sees it again
        return data

    async def sendall(self, data: bytes) -> None:
        """As Wire has it."""
        view = memoryview(data)
        async with self._sending:
            while view:
                sealed: list[bytes] = []
                while view and len(sealed) < self._at_once:
                    view = view[self._tls.write(view[:_RECORDS]) :]
                    sealed.append(self._goes.read())
                await self._loop.sock_sendall(self.sock, b"".join(sealed))

    async def end(self) -> None:
        """As Wire has it."""
        with contextlib.suppress(ssl.SSLError):  # the other side's goodbye is not awaited
            self._tls.unwrap()
        await self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def quiet(self) -> bool:
        """As Wire has it."""
        waiting = self._unread or self._came.pending or self._tls.pending()
        return not waiting and super().quiet()

    async def _flush(self) -> None:
        if self._goes.pending:
            async with self._sending:
                await self._loop.sock_sendall(self.sock, self._goes.read())

    def _may_go_on(self) -> bool:
        here = _HEADER < _record(self._unread) <= len(self._unread)
        return here and self._at_once > 1 and not self._share.overdue()

    @property
    def _at_once(self) -> int:
        """How many records: one, when much of the session waits for others to take it."""
        return 1 if self._share.held > _MUCH else _AT_ONCE

    async def _fill(self) -> None:
        """Give OpenSSL the next record, or what is no record."""
        if self._share.overdue():
            await asyncio.sleep(0)
        unread = self._unread
        while (length := _record(unread)) > len(unread):
            # Little at a time once much waits for others: what is unread here counts nowhere.
            if data := await self._loop.sock_recv(self.sock, _RECORDS * self._at_once):
                unread += data
                continue
            self._came.write(unread)
            self._came.write_eof()
            return
        self._came.write(unread[:length])
        del unread[:length]


def _record(data: bytearray) -> int:
    """The length of the record that begins with ``data``: at least, as far as can be said."""
    if data and data[0] not in _KINDS:
        return len(data)
    return _HEADER + (int.from_bytes(data[3:_HEADER], "big") if len(data) >= _HEADER else 0)


async def give(sink: Wire, data: bytes, share: Share) -> None:
    """Send it all; until it has gone, it counts as what the session makes the gate hold."""
    share.held += len(data)
    try:
        await sink.sendall(data)
    finally:
        share.held -= len(data)


async def carry(
    source: Wire, sink: Wire, count: int, share: Share, note: Callable[[int], None]
) -> int:
    """Carry so many bytes one way; returns how many are missing because ``source`` has ended.

    ``note`` is told how many have gone each time some have. Raises OSError when either breaks.
    """
    while count and (data := await source.recv(min(share.piece, count))):
        await give(sink, data, share)
        count -= len(data)
        note(len(data))
        if share.overdue():
            await asyncio.sleep(0)
    return count


async def relay(client: Wire, origin: Wire, traffic: Traffic, share: Share) -> None:
    """Carry both ways until both have ended, as relay.relay does with plain sockets.

    Raises OSError when either breaks.
    """

    async def out() -> None:
        while data := await client.recv(PIECE):
            await give(origin, data, share)
            traffic.add_sent(len(data))
        await ended(origin)

    async def back() -> None:
        while data := await origin.recv(PIECE):
            await give(client, data, share)
            traffic.add_received(len(data))
        await ended(client)

    async def ended(sink: Wire) -> None:
        traffic.half_closed = True
        with contextlib.suppress(OSError):
            await sink.end()

    ways = [asyncio.create_task(metered(share, way)) for way in (out, back)]
    try:
        await asyncio.gather(*ways)
    except BaseException:
        with contextlib.suppress(OSError):
            reset_when_closed(origin.sock)
        raise
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
