"""JSON-RPC 2.0, one message a line: parse, check, encode. Pure; https://www.jsonrpc.org/specification.

A method's parameters are a dataclass; its annotations are the schema. Batches are not taken.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

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
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in params:
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise _wrong(f"unknown parameter {ascii(name)[:100]}; known are: {known}")
    hints = _hints(kind)  # type: ignore[arg-type]
    for name, field in fields.items():
        if name not in params:
            if (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            ):
                raise _wrong(f"parameter '{name}' is missing")
        elif not fits(params[name], hints[name]):
            raise _wrong(f"parameter '{name}' must be {describe(hints[name])}")
    return kind(**params)


def fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911  # one a type
    """Whether a JSON value is of a type: str, bool, int, float, None, list, dict or a union."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, arguments[0]) and fits(each, arguments[1]) for key, each in value.items()
        )
    if hint is str:
        return isinstance(value, str) and _is_text(value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if hint is int:
        # More than any number here needs, and what C code below can hold.
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """A type in the words of JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(each) for each in arguments)
    if origin is list:
        return f"a list of {describe(arguments[0])}"
    if origin is dict:
        return f"an object of {describe(arguments[1])}"
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(hint, "null")


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


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_text(value: str) -> bool:
    """Without NUL; what is no UTF-8 comes as Python's lone surrogates (surrogateescape)."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _invalid(message: str) -> SeraiError:
    return SeraiError(message, code=INVALID_REQUEST)


def _wrong(message: str) -> SeraiError:
    return SeraiError(message, code=INVALID_PARAMS)
