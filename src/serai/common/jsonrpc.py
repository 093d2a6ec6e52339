"""JSON-RPC 2.0, one message a line, as both daemons speak it: the messages, and who asks.

https://www.jsonrpc.org/specification, without batches. The end that answers is jsonrpc_server.
``serai exec`` alone writes and reads its messages by hand, in runtime/cli/exec.py.
"""

from __future__ import annotations

import base64
import json
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from serai.common import stdio
from serai.common.errors import (
    FAILED,
    GONE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE,
    TOO_LARGE,
    SeraiError,
)

PROTOCOL = 1
"""What the method ``version`` compares. It goes up when an older client would do a wrong thing."""

BYTES = "stdio.bytes"
"""The capability of a VM that sends output as it is: an older one has it in base64 only."""

EARLY = "forward.early"
"""The capability of a VM that takes bytes for a connection to a port before the connection is
there. An older one would lose them."""

MAX_LINE = 1 << 20
LONGEST_ANSWER = 64 << 20
MAX_ID = 128
Id = str | int | None
CHUNK = 64 << 10
MOST_AT_ONCE = 256 << 10
"""Bytes that a client takes from its connection at once."""
C = TypeVar("C", bound="Client")


@dataclass(frozen=True)
class Request:
    """A call; with ``reply`` false it is a notification, which gets no answer.

    ``descriptors`` are those that came with it. ``params`` may have a secret, which none prints.
    """

    id: Id
    method: str
    params: dict[str, Any] = field(repr=False)
    reply: bool = True
    descriptors: tuple[int, ...] = ()


def parse(line: bytes) -> Request:
    """The request in one line. Raises SeraiError with a JSON-RPC code for anything else."""
    try:
        message = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SeraiError(f"this is no JSON: {str(error)[:100]}", code=PARSE) from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise _invalid("a message is an object with 'jsonrpc': '2.0'")
    if unknown := message.keys() - {"jsonrpc", "id", "method", "params"}:
        raise _invalid(f"unknown members: {', '.join(map(ascii, sorted(unknown)))}")
    number, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if not _is_id(number):
        raise _invalid(f"'id' must be null, a number or a text of at most {MAX_ID} characters")
    if not isinstance(method, str):
        raise _invalid("'method' must be a text")
    if not isinstance(params, dict):
        raise SeraiError("'params' must be an object", code=INVALID_PARAMS)
    return Request(number, method, params, reply="id" in message)


def request_id(line: bytes) -> Id:
    """The id of a message that ``parse`` refused, if it can be told."""
    try:
        number = json.loads(line)["id"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None
    return number if _is_id(number) else None


def result(number: Id, value: Any) -> bytes:
    """The line that answers a request."""
    return line({"jsonrpc": "2.0", "id": number, "result": value})


def error(number: Id, problem: SeraiError) -> bytes:
    """The line that refuses a request."""
    body = {"code": problem.code, "message": problem.message, "data": {"hint": problem.hint}}
    return line({"jsonrpc": "2.0", "id": number, "error": body})


def notification(method: str, params: dict[str, Any]) -> bytes:
    """The line that tells a client something."""
    return line({"jsonrpc": "2.0", "method": method, "params": params})


def call(number: Id, method: str, params: dict[str, Any]) -> bytes:
    """The line that asks for something."""
    return line({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def answered(message: dict[str, Any]) -> Any:
    """The result in an answer. Raises SeraiError with what the other end says is wrong."""
    if (found := message.get("error")) is None:
        return message["result"]
    hint = found.get("data", {}).get("hint", "")
    raise SeraiError(found["message"], hint, found.get("code", FAILED))


def output(news: dict[str, Any]) -> bytes:
    """The bytes in the parameters of an ``exec.output``, in whichever way they came."""
    data = news["data"]
    return data if isinstance(data, bytes) else base64.b64decode(data)


class Client:
    """One connection of a caller that waits; ``peer`` is what messages call the other end."""

    peer = "the server"

    def __init__(self, end: Path | socket.socket, timeout: float | None = None) -> None:
        """``end`` is a socket's path, or a connection. ``timeout`` (seconds) is for each wait.

        Raises OSError.
        """
        fresh = end if isinstance(end, socket.socket) else socket.socket(socket.AF_UNIX)
        self._socket = socket.socket(fileno=stdio.above(fresh.detach()))
        self._socket.settimeout(timeout)
        self._buffer = bytearray()
        self._announced: dict[str, Any] | None = None
        self._number = 0
        self._events: list[dict[str, Any]] = []
        try:
            if isinstance(end, Path):
                self._socket.connect(str(end))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, method: str, /, **params: Any) -> Any:
        """Call a method and return its result. Raises SeraiError with the server's code."""
        return self.wait(self.ask(method, params))

    def ask(self, method: str, params: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        """Send a request, with descriptors; returns its id. Raises SeraiError."""
        number, line = self.request(method, params)
        try:
            sent = socket.send_fds(self._socket, [line], descriptors) if descriptors else 0
            self._socket.sendall(line[sent:])
        except OSError as error:
            raise SeraiError(f"{self.peer} does not listen any more: {error}", code=GONE) from None
        return number

    def request(self, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
        """A request's id and its line, for who sends it himself."""
        self._number += 1
        return self._number, call(self._number, method, params)

    def wait(self, number: int) -> Any:
        """The result of the request ``number``; notifications that come before it are kept."""
        while True:
            message = self.message()
            if message.get("id", 0) in (number, None):
                return answered(message)
            # What is left over from a payload that ended before it took all of its input is not.
            if "method" in message:
                self._events.append(message)

    def message(self) -> dict[str, Any]:
        """The next message, whatever it is. Raises SeraiError if none comes."""
        while (message := self.buffered()) is None:
            self.receive()
        return message

    def buffered(self) -> dict[str, Any] | None:
        """The next message of those that have come already; None if there is none.

        One whose parameters have a ``size`` announces so many bytes behind its line, which become
        its ``data``.
        """
        if (message := self._announced) is None:
            end = self._buffer.find(b"\n")
            if end < 0:
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            message = self._parsed(line)
            if message.get("method") != "exec.output" or "size" not in message["params"]:
                return message
        size = message["params"]["size"]
        if not isinstance(size, int) or not 0 <= size <= LONGEST_ANSWER:
            raise SeraiError(f"{self.peer} announces {size!a} bytes"[:100], code=GONE)
        self._announced = message if len(self._buffer) < size else None
        if self._announced is not None:
            return None
        message["params"]["data"] = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return message

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            hint = "a start-up file of its shell may print something"
            said = ascii(line[:60].decode(errors="replace"))
            raise SeraiError(f"{self.peer} says {said}, which is no answer", hint, GONE)
        return message

    def receive(self) -> None:
        """Wait for what comes next, and buffer it. Raises SeraiError if nothing can come."""
        try:
            data = self._socket.recv(MOST_AT_ONCE)
        except OSError as error:
            raise SeraiError(f"no answer from {self.peer}: {error}", code=GONE) from None
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Buffer what came; nothing says that nothing can come any more. Raises SeraiError."""
        if not data:
            raise SeraiError(f"{self.peer} hung up", code=GONE)
        self._buffer += data
        if len(self._buffer) > LONGEST_ANSWER:
            raise SeraiError(f"{self.peer} sends a line without an end", code=TOO_LARGE)

    def hung_up(self) -> bool:
        """Whether the other end is known to be gone: poll(2), POLLHUP."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    @property
    def socket(self) -> socket.socket:
        """The connection itself, for who waits on it in an event loop."""
        return self._socket

    def fileno(self) -> int:
        """The connection's descriptor, to wait on beside others."""
        return self._socket.fileno()


async def ask(path: Path, method: str, params: dict[str, Any], longest: int = MAX_LINE) -> Any:
    """Call one method on a connection of its own, in an event loop.

    Raises SeraiError with what the server says, OSError or EOFError if it says nothing.
    """
    import asyncio  # noqa: PLC0415  # 30 ms that the command serai does without

    reader, writer = await asyncio.open_unix_connection(path, limit=longest)
    try:
        writer.write(call(1, method, params))
        line = await reader.readline()
    finally:
        writer.close()
    if not line.endswith(b"\n"):
        raise EOFError("it hung up")
    return answered(json.loads(line))


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def line(message: dict[str, Any]) -> bytes:
    """Any message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _invalid(message: str) -> SeraiError:
    return SeraiError(message, code=INVALID_REQUEST)
