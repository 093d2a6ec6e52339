"""Who has stolen a VM's keys, at real NATS servers, and how tests wait for what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError

from tests.support.nats_servers import Servers

DEADLINE = 30.0


async def last(heard: list[Msg]) -> tuple[str, bytes, str]:
    """The last that was heard: subject, text and where an answer goes."""
    return (heard[-1].subject, heard[-1].data, heard[-1].reply) if heard else ("", b"", "")


async def value(bucket: Any, key: str) -> bytes | None:
    """What a key has; None if it is not there yet."""
    try:
        return bytes((await bucket.get(key)).value)
    except KeyNotFoundError:  # what was sent a moment ago
        return None


async def eventually(ask: Callable[[], Awaitable[object]], wanted: object, told: str = "") -> None:
    """Wait until ``ask`` gives what is wanted."""
    end = time.monotonic() + DEADLINE
    while await ask() != wanted:
        assert time.monotonic() < end, told or f"it is not {wanted!r}"
        await asyncio.sleep(0.02)


async def how_many(things: list[Any]) -> int:
    """For ``eventually``."""
    return len(things)


class Thief:
    """A connection with the keys of ``a``; ``refused`` is what the server said to it."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.heard: list[Msg] = []
        self.connection: Client

    async def connect(self, servers: Servers) -> None:
        self.connection = await servers.connect("vm", "a", error_cb=self._error)

    async def _error(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def refusals(self, count: int, what: str) -> None:
        """Wait for so many: the library tells them a moment after the server did."""
        await eventually(lambda: how_many(self.refused), count, f"{what} was not refused")

    async def hear(self, message: Msg) -> None:
        self.heard.append(message)
