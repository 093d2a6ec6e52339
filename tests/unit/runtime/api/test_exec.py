"""What a payload writes, on its way to the client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.common.jsonrpc_server import Connection
from serai.runtime.api.exec import Executions, Input, Stream
from serai.runtime.sandbox.enter import Entered
from serai.runtime.sessions.payloads.payloads import Payload, Payloads
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps.uses import Uses


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


def test_the_end_of_the_input_of_a_transfer_that_has_failed_is_no_defect() -> None:
    (reading, writing), (told, teller) = os.pipe(), os.pipe()
    os.close(told)  # the transfer has ended already
    stream = Stream(Payload("1", "one", Entered(0, -1, None), None, False), writing, None, teller)

    async def end() -> None:
        sessions = cast(Sessions, SimpleNamespace(uses=Uses()))
        executions = Executions(sessions, cast(Payloads, Failing()))
        client = cast(Connection, Client())
        executions._streams[client, "1"] = stream
        assert await executions.input(client, cast(Any, None), Input("1", eof=True)) == {}

    try:
        asyncio.run(end())
        assert not is_open(writing)
    finally:
        os.close(reading)
        os.close(teller)
