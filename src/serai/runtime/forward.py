"""A port here that leads to a port of a session, as the command and the library offer it.

Each connection to it is a *stream* of one connection to the VM, whose other end ``api.forwards``
has. Windows keep one stream from holding up another: see ``serai.common.streams``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from serai.common import jsonrpc, sockets
from serai.common.errors import GONE, OTHER_VERSION, SeraiError
from serai.common.jsonrpc import EARLY, MAX_LINE
from serai.common.streams import PortStream
from serai.runtime.client import Client

HOST = "127.0.0.1"
LONGEST_HEAD = 64 << 10
DIALS = 16
"""Connections that may be under way at once. sessiond takes 64 requests, and each may wait."""
_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]")
_HOPS = (b"connection", b"keep-alive", b"proxy-connection")


class Forwarder(asyncio.Protocol):
    """Listens at ``url`` and carries connections, once ``run`` is called.

    ``client`` is used for nothing else from then on. ``told`` is called with what keeps a
    connection from being made, and with "" when one was made.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        port: int,
        *,
        local: int = 0,
        rewrite_host: bool = False,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        """``local`` is the port here; 0: any that is free. Raises SeraiError."""
        self._client = client
        self._port = port
        self._rewrite = rewrite_host
        self._told = told
        self._streams: dict[int, PortStream] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, int] = {}  # streams by the requests to connect them
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._listener = _listening(local)
        try:
            if EARLY not in client.capabilities():
                text = f"{client.peer} has an older Serai, which forwards in another way"
                raise SeraiError(text, "upgrade it", OTHER_VERSION)
            self._forward = client.call("forward.open", name=name, port=port)["forward"]
        except BaseException:
            self._listener.close()
            raise
        self.local = int(self._listener.getsockname()[1])
        self.url = f"http://{HOST}:{self.local}"

    async def run(self) -> str:
        """Carry connections until the forward ends; returns why. Raises SeraiError."""
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._drained = asyncio.Event()
        self._drained.set()
        self._listener.setblocking(False)
        try:
            await self._loop.create_connection(lambda: self, sock=self._client.socket)
            self._listen()
            return await self._over
        finally:
            self._over.cancel()  # what comes now is nobody's
            self._loop.remove_reader(self._listener)
            self._listener.close()
            for stream in self._streams.values():
                stream.drop()
            if self._transport is not None:
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection to the VM is the loop's."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # the loop made it
        self._transport = transport

    def pause_writing(self) -> None:
        """The way to the VM is full."""
        self._drained.clear()

    def resume_writing(self) -> None:
        """It is free again."""
        self._drained.set()

    def connection_lost(self, _: Exception | None) -> None:
        """The VM has hung up."""
        self._drained.set()
        self._stop(SeraiError(f"{self._client.peer} hung up", code=GONE))

    def data_received(self, data: bytes) -> None:
        """Take what comes from the VM."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        try:
            if len(self._buffer) > 2 * MAX_LINE:
                raise ValueError
            for line in lines:
                self._take(json.loads(line))
        except Exception:  # whatever a VM can say
            self._stop(SeraiError(f"{self._client.peer} says what makes no sense", code=GONE))

    def _stop(self, why: str | SeraiError) -> None:
        if self._over.done():
            return
        if isinstance(why, SeraiError):
            self._over.set_exception(why)
        else:
            self._over.set_result(why)

    def _take(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._answered(self._asked.pop(message["id"]), message)
            return
        event, news = message["method"], message["params"]
        if event == "forward.closed":
            self._stop(str(news["reason"]))
        elif stream := self._streams.get(news.get("stream", 0)):
            if event == "forward.data":
                stream.feed(base64.b64decode(news["data"]), eof=news["eof"])
            elif event == "forward.taken":
                stream.grant(news["bytes"])
            elif event == "forward.ended":
                stream.finish(reset=news["reset"])

    def _listen(self) -> None:
        """Accept connections, as long as few are being made in the session."""
        if self._listener.fileno() >= 0 and len(self._asked) < DIALS:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        if (end := sockets.accept(self._listener, self._listen, self._not_accepted)) is None:
            return
        number, asked = next(self._numbers), next(self._numbers)
        self._asked[asked] = number
        if len(self._asked) >= DIALS:
            self._loop.remove_reader(self._listener)
        tell = partial(self._tell, number)
        first = partial(_first, self._port) if self._rewrite else None
        stream = PortStream(tell, partial(self._stream_ended, number), self._drained, first)
        self._streams[number] = stream
        self._say(asked, "connect", forward=self._forward, stream=number)
        stream.begin(end)

    def _not_accepted(self, error: OSError) -> None:
        self._told(f"no connection accepted: {error.strerror}")

    def _answered(self, number: int, answer: dict[str, Any]) -> None:
        self._listen()
        try:
            jsonrpc.answered(answer)
        except SeraiError as error:
            self._told(str(error))
            if stream := self._streams.pop(number, None):
                stream.drop()
        else:
            self._told("")

    def _stream_ended(self, number: int, broke: bool) -> None:
        stream = self._streams.pop(number)
        if broke or stream.lossy:
            self._tell(number, "end")

    def _tell(self, number: int, event: str, **params: Any) -> None:
        self._say(None, event, stream=number, **params)

    def _say(self, asked: int | None, event: str, **params: Any) -> None:
        name = f"forward.{event}"
        line = jsonrpc.call(asked, name, params) if asked else jsonrpc.notification(name, params)
        if self._transport is not None:
            self._transport.write(line)


class Forward(str):
    """The URL of a port of a session; it leads there until ``close``. A context manager, too."""

    def __init__(self, _url: str) -> None:
        self.ended = ""
        """Why it ended by itself; "" while it has not."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def carries(self) -> bool:
        """Whether connections to it still lead to the session."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End it, and the connections to it."""
        if self._loop is not None and self._task is not None and self._thread is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def _serve(self, forwarder: Forwarder, client: Client) -> None:
        """Have a thread carry connections; returns when it does."""
        ready = threading.Event()

        async def run() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            ready.set()
            try:
                self.ended = await forwarder.run() or "closed"
            except (SeraiError, OSError) as error:
                self.ended = str(error)

        def serve() -> None:
            with client, contextlib.suppress(asyncio.CancelledError):
                asyncio.run(run())

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        ready.wait()


def opened(client: Client, name: str, port: int, local: int, *, rewrite_host: bool) -> Forward:
    """A forward over a connection that is nobody else's, and closed with it. Raises SeraiError."""
    try:
        forwarder = Forwarder(client, name, port, local=local, rewrite_host=rewrite_host)
    except BaseException:
        client.close()
        raise
    made = Forward(forwarder.url)
    made._serve(forwarder, client)
    return made


def rewritten(head: bytes, port: int) -> bytes:
    """The head of a request as if it had been sent to localhost:``port``, which is what it says.

    Many servers of developers answer no other name. ``Origin`` is changed where it is the name of
    the same server: a request from another site stays one. The connection is for this one request,
    so that no other has to be found in it, unless it becomes a websocket.
    What is no head of HTTP/1 stays as it is.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not _REQUEST.fullmatch(first):
        return head
    fields = [(name.strip().lower(), line) for line in lines for name in [line.partition(b":")[0]]]
    host = next((_value(line) for name, line in fields if name == b"host"), b"")
    keep = any(name == b"upgrade" and _value(line).lower() == b"websocket" for name, line in fields)
    here = b"localhost:%d" % port
    changed = [first, b"Host: " + here, *([] if keep else [b"Connection: close"])]
    for name, line in fields:
        if name == b"origin" and _value(line) in (b"http://" + host, b"https://" + host):
            changed.append(b"Origin: http://" + here)
        elif name != b"host" and (keep or name not in _HOPS):
            changed.append(line)
    return b"\r\n".join([*changed, b"", b""])


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].strip()


def _first(port: int, start: bytes) -> bytes | None:
    """What goes for the start of a connection: a rewritten head; None while it may be one yet."""
    head, blank, rest = start.partition(b"\r\n\r\n")
    if blank:
        return rewritten(head + blank, port) + rest
    return start if len(start) >= LONGEST_HEAD else None


def _listening(port: int) -> socket.socket:
    end = socket.socket(socket.AF_INET)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind((HOST, port))
        end.listen(128)
    except (OSError, OverflowError) as error:
        end.close()
        why = error.strerror if isinstance(error, OSError) else "a port is a number up to 65535"
        hint = "--local names another port, 0 any that is free"
        raise SeraiError(f"cannot listen on {HOST}:{port}: {why}", hint) from None
    return end
