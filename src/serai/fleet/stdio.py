"""What ``serai --vm nats://…`` starts, as it starts ssh for ``ssh://``: a fleet on a socket.

Standard input is a connected socket, and the client is at its other end.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import platform
import socket
import sys

from serai.common import jsonrpc, stdio
from serai.common.errors import SeraiError
from serai.common.jsonrpc import MAX_LINE
from serai.fleet import settings
from serai.fleet.client import FleetClient
from serai.fleet.links import carry
from serai.fleet.router import Router
from serai.runtime import address

CHUNK = 64 << 10


async def serve(where: address.Address, end: socket.socket) -> None:
    """Carry between the client at ``end`` and the fleet, until one of them is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=MAX_LINE)
    writer.transport.set_write_buffer_limits(high=CHUNK)
    try:
        async with FleetClient(where.nats, settings.credentials(), _client()) as fleet:
            if where.vm:
                link = await fleet.link(where.vm)
                try:
                    await carry(link, reader, writer)
                finally:
                    await link.close()
            else:
                await Router(fleet, reader, writer).run()
    except SeraiError as error:
        writer.write(jsonrpc.error(None, error))
    finally:
        writer.close()


def _client() -> str:
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (KeyError, OSError):
        return f"{os.getuid()}@{platform.node()}"


def run() -> None:
    """Be the program."""
    stdio.begin()
    where = address.parse(sys.argv[1])
    asyncio.run(serve(where, socket.socket(fileno=os.dup(0))))
