"""A port here that leads to a port of a session, as the command and the library offer it.

Each connection to it is a *stream* of one connection to the VM. ``api.forwards`` has the other end,
and says how windows keep one stream from holding up another.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import GONE, SeraiError
from serai.common.jsonrpc import MAX_LINE, WINDOW
from serai.runtime.client import Client

HOST = "127.0.0.1"
CHUNK = 32 << 10
LONGEST_HEAD = 64 << 10
DIALS, ASKED = 16, 48
"""What may be unanswered at once. sessiond takes 64 requests, and a dial may wait for a session."""
_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]")
_HOPS = (b"connection", b"keep-alive", b"proxy-connection")


class LocalStream:
    """A connection that was made to the port here."""

    def __init__(self) -> None:
        self.window = WINDOW  # bytes that the session's side still takes
        self.granted = asyncio.Event()
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: it was reset
        self.up: asyncio.Task[None] | None = None


class Forwarder:
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
        self._streams: dict[int, LocalStream] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any] | None] = {}
        self._listener = _listening(local)
        try:
            self._forward = client.call("forward.open", name=name, port=port)["forward"]
        except BaseException:
            self._listener.close()
            raise
        self.local = int(self._listener.getsockname()[1])
        self.url = f"http://{HOST}:{self.local}"

    async def run(self) -> str:
        """Carry connections until the forward ends; returns why. Raises SeraiError."""
        self._turns, self._dials = asyncio.Semaphore(ASKED), asyncio.Semaphore(DIALS)
        reader, self._writer = await asyncio.open_connection(
            sock=self._client.socket, limit=2 * MAX_LINE
        )
        server = await asyncio.start_server(self._accepted, sock=self._listener, limit=LONGEST_HEAD)
        try:
            return await self._messages(reader)
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.transport.abort()

    async def _messages(self, reader: asyncio.StreamReader) -> str:
        """Take what comes from the VM until it says that the forward has ended."""
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                message = json.loads(line)
                if "method" not in message:
                    self._turns.release()
                    if future := self._asked.pop(message["id"], None):
                        future.set_result(message)
                elif message["method"] == "forward.closed":
                    return str(message["params"]["reason"])
                elif stream := self._streams.get(message["params"].get("stream", 0)):
                    _take(stream, message["method"], message["params"])
        raise SeraiError(f"{self._client.peer} hung up", code=GONE)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # start_server made it
        self._tasks.add(task)
        number, stream = next(self._numbers), LocalStream()
        self._streams[number] = stream
        try:
            async with self._dials:
                await self._connect(number)
            try:
                await self._carry(number, stream, reader, writer)
            except OSError:
                await self._ask("forward.end", stream=number)
                raise
            writer.close()
        except SeraiError as error:
            self._told(str(error))
        except (OSError, asyncio.CancelledError):
            pass  # one of the two ends is gone, and the other learns it by that
        finally:
            self._tasks.discard(task)
            del self._streams[number]
            if not writer.is_closing():
                _reset(writer)

    async def _connect(self, number: int) -> None:
        answer = asyncio.get_running_loop().create_future()
        await self._ask("forward.connect", answer, forward=self._forward, stream=number)
        jsonrpc.answered(await answer)
        self._told("")

    async def _carry(
        self,
        number: int,
        stream: LocalStream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        stream.up = asyncio.create_task(self._up(number, stream, reader))
        both = {stream.up, asyncio.create_task(self._down(number, stream, writer))}
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            for each in done:
                if not each.cancelled():
                    each.result()
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _up(self, number: int, stream: LocalStream, reader: asyncio.StreamReader) -> None:
        data = await _head(reader, self._port) if self._rewrite else b""
        while True:
            data = data or await reader.read(min(CHUNK, stream.window))
            stream.window -= len(data)
            text = base64.b64encode(data).decode()
            await self._ask("forward.data", stream=number, data=text, eof=not data)
            if not data:
                return
            data = b""
            while not stream.window:
                stream.granted.clear()
                await stream.granted.wait()

    async def _down(self, number: int, stream: LocalStream, writer: asyncio.StreamWriter) -> None:
        taken = 0
        while data := await stream.arrived.get():
            writer.write(data)
            await writer.drain()
            taken += len(data)
            if taken >= WINDOW // 4:
                await self._ask("forward.taken", stream=number, bytes=taken)
                taken = 0
        if data is None:
            raise ConnectionResetError
        writer.write_eof()

    async def _ask(
        self, method: str, answer: asyncio.Future[Any] | None = None, **params: Any
    ) -> None:
        """Send a request when there is a turn; ``answer`` gets the message that answers it."""
        await self._turns.acquire()
        number = next(self._numbers)
        self._asked[number] = answer
        self._writer.write(jsonrpc.call(number, method, params))


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
            except SeraiError as error:
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


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that its other end sees that it broke: socket(7), SO_LINGER."""
    end = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _take(stream: LocalStream, event: str, news: dict[str, Any]) -> None:
    if event == "forward.data":
        stream.arrived.put_nowait(base64.b64decode(news["data"]))
    elif event == "forward.taken":
        stream.window += news["bytes"]
        stream.granted.set()
    elif event == "forward.ended":
        if news["reset"]:
            stream.arrived.put_nowait(None)
        if stream.up is not None:
            stream.up.cancel()  # nobody takes any more


async def _head(reader: asyncio.StreamReader, port: int) -> bytes:
    """The head of a request, rewritten; what there is of one if it ends, nothing if too long."""
    try:
        return rewritten(await reader.readuntil(b"\r\n\r\n"), port)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return b""


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
