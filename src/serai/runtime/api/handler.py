"""What every table of methods is made of: a handler, and the parameters that many of them take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serai.runtime.api.connection import Connection
from serai.runtime.api.rpc import Request

Handler = Callable[[Connection, Request, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Nothing:
    """A method without parameters."""


@dataclass(frozen=True)
class Name:
    """The session that is meant."""

    name: str
