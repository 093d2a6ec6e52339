"""A WebSocket server that says back what it hears: echo.py CERTIFICATE KEY."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

import websockets  # type: ignore[import-not-found]


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:3])
    async with (
        websockets.serve(echo, "0.0.0.0", 8080),  # noqa: S104  # the machine has only a loopback
        websockets.serve(echo, "0.0.0.0", 8443, ssl=context),  # noqa: S104
    ):
        await asyncio.Future()


asyncio.run(main())
