"""What a payload writes, on its way to the client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.common.jsonrpc_server import Connection
from serai.runtime.api.exec import Executions, Stream
from serai.runtime.sandbox.enter import Entered
from serai.runtime.sessions.payloads import Payload, Payloads
from serai.runtime.sessions.sessions import Sessions


class Failing:
    """Payloads of which one is over before anything of it was read."""

    async def finish(self, *_: Any) -> None:
        raise SeraiError("over")


class Client:
    """One that hangs up; nothing gets to it."""

    gone = None


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def test_no_descriptor_stays_open_though_nothing_was_read() -> None:
    reading, writing = os.pipe()
    payload = Payload("1", "one", Entered(0, -1, None), None, False)

    async def follow() -> None:
        executions = Executions(cast(Sessions, None), cast(Payloads, Failing()))
        client, stream = cast(Connection, Client()), Stream(payload)
        await executions.follow(client, stream, [(reading, "stdout")], None, None)

    try:
        with pytest.raises(SeraiError):
            asyncio.run(follow())
        assert not is_open(reading)
    finally:
        os.close(writing)
