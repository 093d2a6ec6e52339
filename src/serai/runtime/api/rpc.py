"""JSON-RPC 2.0, one message a line: parse, check, encode. Pure; https://www.jsonrpc.org/specification.

A method's parameters are a dataclass; its annotations are the schema. Batches are not taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from serai.common import tables
from serai.runtime.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE, SeraiError

MAX_LINE = 1 << 20
MAX_ID = 128
Id = str | int | None
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A call; with ``reply`` false it is a notification, which gets no answer.

    ``descriptors`` are those that came with it.
    """

    id: Id
    method: str
    params: dict[str, Any]
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


def check(kind: type[T], params: dict[str, Any]) -> T:
    """``params`` as the dataclass ``kind``. Raises SeraiError naming a parameter that is wrong."""
    try:
        return tables.read(kind, params, word="parameter")
    except ValueError as error:
        raise SeraiError(str(error), code=INVALID_PARAMS) from None


def result(number: Id, value: Any) -> bytes:
    """The line that answers a request."""
    return _line({"jsonrpc": "2.0", "id": number, "result": value})


def error(number: Id, problem: SeraiError) -> bytes:
    """The line that refuses a request."""
    body = {"code": problem.code, "message": problem.message, "data": {"hint": problem.hint}}
    return _line({"jsonrpc": "2.0", "id": number, "error": body})


def notification(method: str, params: dict[str, Any]) -> bytes:
    """The line that tells a client something."""
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def call(number: Id, method: str, params: dict[str, Any]) -> bytes:
    """The line that asks for something."""
    return _line({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _invalid(message: str) -> SeraiError:
    return SeraiError(message, code=INVALID_REQUEST)
