"""Dataclasses from TOML and JSON: files of settings, policies, and the parameters of methods.

A dataclass is the schema. Its annotations are the types; ``setting`` adds what an annotation cannot
say. An unknown key or a wrong type is an error, because a limit that is silently ignored is worse
than none.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from serai.common.errors import SeraiError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_INT = (1 << 63) - 1
_LONGEST = 60  # characters of a wrong value in a message
T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], Any] | None = None,
    secret: bool = False,
) -> Any:
    """A field of a dataclass that is read from a file, and what it means, for people.

    ``default`` is the value, or a type that makes it. ``parse`` gets each text in the value and
    returns what to use for it; it raises ValueError. The value of a ``secret`` is never shown.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "parse": parse,
        "secret": secret,
    }
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def unicode(text: str) -> str:
    """For ``parse``: a text that is not what some bytes became that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("this is no UTF-8") from None
    return text


def load(kind: type[T], path: Path, what: str, *, hint: str = "", absent: T | None = None) -> T:
    """The TOML file ``path`` as the dataclass ``kind``; ``absent`` if there is no such file.

    Raises SeraiError naming ``what`` cannot be read, or the file and the key that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except RecursionError:
        raise SeraiError(f"cannot read {what} {path}: it is nested too deeply") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        if absent is not None and isinstance(error, FileNotFoundError):
            return absent
        raise SeraiError(f"cannot read {what} {path}: {error}") from error
    try:
        return read(kind, data)
    except ValueError as error:
        raise SeraiError(f"{path}: {error}", hint) from error


def read(kind: type[T], data: Any, at: str = "", word: str = "key") -> T:
    """``data`` as the dataclass ``kind``. Raises ValueError naming the key that is wrong.

    ``at`` is the table's own name with a dot, ``word`` what a key of it is called.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{at[:-1] or 'it'} must be a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise ValueError(f"unknown {word} {at}{_plain(key)}; known are {known}")
    hints = _hints(kind)  # type: ignore[arg-type]  # a type is hashable
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(data[name], hints[name], at + name, field.metadata)
        elif dataclasses.MISSING is field.default is field.default_factory:
            raise ValueError(f"{word} {at}{name} is missing")
    return kind(**values)


def _value(value: Any, hint: Any, name: str, rules: Mapping[str, Any]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type[Any]", hint), value, f"{name}.")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(_fits(key, str) for key in value):
            raise ValueError(f"{name} must be a table")
        inner = arguments[1]
        return {key: _value(v, inner, f"{name}.{_plain(key)}", rules) for key, v in value.items()}
    if origin in (list, tuple):
        inner = str if rules.get("parse") else arguments[0]
        if dataclasses.is_dataclass(inner):
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name} must be a list of tables")
            kind = typing.cast("type[Any]", inner)
            return origin(read(kind, each, f"{name}[{at}].") for at, each in enumerate(value))
        if not isinstance(value, list | tuple) or not all(_fits(each, inner) for each in value):
            what = _describe(inner).removeprefix("a ")
            raise ValueError(f"{name} must be a list of {what}s{_but(value, rules)}")
        return origin(_parsed(each, name, rules) for each in value)
    value = _parsed(value, name, rules)
    if not _fits(value, hint):
        raise ValueError(f"{name} must be {_describe(hint)}{_but(value, rules)}")
    least, most = rules.get("minimum"), rules.get("maximum")
    if least is not None and value is not None and not least <= value <= (most or value):
        wanted = f"{least}..{most}" if most else f"{least} or more"
        raise ValueError(f"{name} must be {wanted}{_but(value, rules)}")
    if (choices := rules.get("choices")) and value not in choices:
        wanted = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {wanted}{_but(value, rules)}")
    return value


def _parsed(value: Any, name: str, rules: Mapping[str, Any]) -> Any:
    parse = rules.get("parse")
    if parse is None or not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: Any, str, bool, int, float, None or a union."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in arguments)
    if hint is str:
        return isinstance(value, str) and _is_text(value)
    if hint in (int, float):
        # bool is an int in Python and never what was meant; NaN is within no bounds.
        number = isinstance(value, int if hint is int else int | float)
        most = MAX_INT if hint is int else sys.float_info.max
        return number and not isinstance(value, bool) and -most <= value <= most
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A type in plain words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(each) for each in arguments)
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(hint, "null")


def _but(value: Any, rules: Mapping[str, Any]) -> str:
    """What a value is that is wrong, unless it is long, or nobody's business."""
    if rules.get("secret") or isinstance(value, list | tuple | Mapping):
        return ""
    return f", not {ascii(value)[:_LONGEST]}"


def _plain(key: Any) -> str:
    """A key as it is, unless it could break a message."""
    text = str(key)
    good = text.isascii() and text.isprintable() and " " not in text
    return text[:_LONGEST] if good else ascii(key)[:_LONGEST]


def _is_text(value: str) -> bool:
    """Without NUL; what is not UTF-8 comes as Python's lone surrogates (surrogateescape)."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
