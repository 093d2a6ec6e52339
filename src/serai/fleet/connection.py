"""A connection to the servers of a fleet: always by TLS, and both ends show a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from serai.common.errors import GONE, SeraiError

log = logging.getLogger("serai")
LOST = (errors.Error, OSError, asyncio.TimeoutError, AttributeError, RuntimeError)
"""What sending can fail with. The last two are asyncio's, of a transport of TLS that just ended."""
MUCH = 1 << 20
"""Bytes on their way to the server from which on a message waits."""
PATIENCE = 10.0
"""Seconds for the first connection of a client."""
# asyncio warns that a stream of TLS ends as it does. Nobody can do anything about that.
logging.getLogger("asyncio").setLevel(logging.ERROR)
_ENDED = b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"
_TOLD = re.compile(rb"NATS/1\.0( [0-9]{3}( [ -~]*)?)?(\r\n[!-9;-~]+: ?[ -~]*)*\r\n\r\n")
FATAL = ("Authorization Violation", "certificate required")
ALERTS = ("alert bad certificate", "alert unknown ca", "alert certificate", "tlsv13 alert")
"""What TLS says when the other end does not accept our certificate."""


class Nats(Client):
    """nats-py's client, which would go on without TLS if a server said that it has none."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise errors.Error("it does not ask for TLS")
        return bytes(super()._connect_command())

    @property
    def size_of_cluster(self) -> int:
        """How many servers there are now: each tells of the others."""
        return max(1, len(self._server_info.get("connect_urls") or ()))

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        """Take a message, whose subject and headers may be a stolen VM's.

        The library takes a stored message for the server's own if its headers say so. Then it sends
        a message to whatever subject they name, with this client's rights. What is no header, and
        a subject that is no text, would end its reading for ever.
        """
        subject = subject.decode(errors="replace").encode()
        await super()._process_msg(sid, subject, reply, data, _plain(subject, headers) or b"")

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """The library waits here if too much is on its way, and would swallow that whoever waits
        with it is cancelled: that one would never end.
        """
        flushing = super()._flush_pending(force_flush)
        return await (asyncio.shield(asyncio.ensure_future(flushing)) if force_flush else flushing)


class Connection:
    """A connection that is made again when it breaks. ``lost`` is called when it is closed for
    good, and ``again`` when there is a new one: what was on its way may be lost.
    """

    def __init__(self, servers: Sequence[str], credentials: Path, name: str, inbox: str) -> None:
        """``servers`` are HOST:PORT. Raises SeraiError if the credentials cannot be read."""
        self.nats = Nats()
        self.closed = asyncio.Event()
        self._was_open = False
        self.said = ""
        self.denied = ""
        self._known: set[str] = set()
        self.again: Callable[[], object] = lambda: None
        self.lost: Callable[[str], object] = lambda _: None
        self._servers = [f"tls://{server}" for server in servers]
        self._name, self._inbox, self._tls = name, inbox, _context(credentials)
        self._credentials = credentials

    async def open(self, patience: float | None = PATIENCE) -> None:
        """Connect, within so many seconds; None: whenever there is a server. Raises SeraiError."""
        try:
            await asyncio.wait_for(self._open(), patience)
            self._was_open = True
        except (asyncio.TimeoutError, errors.Error, OSError) as error:
            with contextlib.suppress(Exception):
                await self.nats.close()
            where = ", ".join(each.removeprefix("tls://") for each in self._servers)
            why, hint = self._told(self.said or str(error) or "no answer")
            raise SeraiError(f"cannot reach the fleet at {where}: {why}", hint, GONE) from None

    async def close(self) -> None:
        """Hang up; what was sent is sent before."""
        with contextlib.suppress(errors.Error, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self.nats.flush(), 1)
        with contextlib.suppress(errors.Error, OSError):
            await self.nats.close()

    async def publish(
        self, subject: str, text: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Send, or lose it if there is no connection now: frames are sent again."""
        if self.nats.is_connected:
            with contextlib.suppress(*LOST):
                await self.nats.publish(subject, text, headers=headers)

    async def request(self, subject: str, text: bytes, timeout: float) -> bytes | None:
        """The answer of who is there; None if nobody is, or does not answer in time."""
        try:
            answer: Msg = await self.nats.request(subject, text, timeout)
        except LOST:
            return None
        return bytes(answer.data)

    async def all_servers(self, subject: str, text: bytes) -> list[bytes]:
        """What the servers themselves answer, as many as do within a second."""
        found: list[bytes] = []
        inbox = self.nats.new_inbox()
        with contextlib.suppress(*LOST):
            subscription = await self.nats.subscribe(inbox)
            await self.nats.publish(subject, text, inbox)
            for _ in range(self.nats.size_of_cluster):
                found.append(bytes((await subscription.next_msg(1)).data))
            await subscription.unsubscribe()
        return found

    async def subscribe(
        self, subject: str, heard: Callable[[Msg], Awaitable[None]], queue: str = ""
    ) -> Callable[[], Awaitable[None]]:
        """Have ``heard`` called for what comes there; returns what ends that."""
        subscription = await self.nats.subscribe(
            subject, queue, heard, pending_bytes_limit=32 << 20
        )

        async def end() -> None:
            with contextlib.suppress(errors.Error, OSError):
                await subscription.unsubscribe()

        return end

    async def _open(self) -> None:
        await self.nats.connect(
            self._servers,
            error_cb=self._error,
            closed_cb=self._closed,
            reconnected_cb=self._again,
            disconnected_cb=self._spread,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=20,  # when thousands come at once, a server needs its time
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=MUCH,
            name=self._name,
            inbox_prefix=self._inbox,
            tls=self._tls,
        )

    def check(self) -> None:
        """Raises SeraiError if a server has said that this certificate may not do it."""
        if self.denied:
            what = f"the certificate in {self._credentials} may not do this: {self.denied}"
            raise SeraiError(what, "a client's is needed: clients/NAME of 'invoke fleet-keys'")

    def _told(self, why: str) -> tuple[str, str]:
        """An error of TLS as a person needs it, and what to do."""
        if any(each in why for each in ALERTS):
            why = f"no server takes the certificate in {self._credentials}"
            return why, "it is of another fleet, or has expired: 'invoke fleet-keys --renew'"
        if "certificate verify failed" in why:
            found = why.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            why = f"the server's certificate is not as {self._credentials}/ca.pem wants it: "
            hint = "name the servers as 'invoke fleet-keys' did, and take this fleet's keys"
            return why + found.rstrip("."), hint
        if "permissions violation" in why.lower():
            return why, f"is the certificate in {self._credentials} of the name that is used here?"
        return why, ""

    async def _error(self, error: Exception) -> None:
        text = str(error)
        if isinstance(error, errors.SlowConsumerError):  # frames are sent again
            return
        if "permissions violation" in text.lower():
            self.denied = text.removeprefix("nats: ")
        if text == "Connection lost" and self._known:  # as before it was known why
            return
        self.said = text.removeprefix("nats: ") or type(error).__name__
        if self.said not in self._known:  # else it is told each second, of many servers by turns
            self._known.add(self.said)
            log.info("%s", "; ".join(each for each in self._told(self.said) if each))
        if any(each in text for each in FATAL) and not self.nats.is_connected:
            where = f"the certificate in {self._credentials}"
            why = f"a server of the fleet refuses {where}: {self.said}"
            if not self._was_open:
                hint = "was it withdrawn, or has the server not got its new users.conf yet?"
                raise SeraiError(why, hint, GONE)  # and nats-py tries no more
            self.said = why
            await self._closed()

    async def _spread(self) -> None:
        """All of a server's come back when it died: not in the same moment."""
        await asyncio.sleep(random.random())  # noqa: S311  # no secret

    async def _closed(self) -> None:
        self.closed.set()
        self.said = self.said or "the fleet's server ended the connection"
        self.lost(self.said)

    async def _again(self) -> None:
        self._known.clear()
        self.again()


def _plain(subject: bytes, headers: bytes | None) -> bytes | None:
    """What the headers of a message may say here: to an inbox what the server tells by them, and
    elsewhere that a key of a bucket is deleted.
    """
    if not headers:
        return None
    if not subject.startswith(b"_INBOX."):
        return _ENDED if b"\r\nKV-Operation:" in headers else None
    return headers if _TOLD.fullmatch(headers) else None


def _context(credentials: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    try:
        context = ssl.create_default_context(cafile=str(credentials / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(credentials / "cert.pem", credentials / "key.pem")
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or str(error)
        what = f"cannot read the fleet's credentials in {credentials}: {why}"
        hint = "'invoke fleet-keys' makes ca.pem, cert.pem and key.pem"
        raise SeraiError(what, f"{hint}; a client has them where SERAI_FLEET says") from None
    return context
