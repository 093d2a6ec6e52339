"""Notes down in a file whatever reaches it past the gate, by UDP or TCP: sink.py FILE."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

PORTS = (53, 9999)


def note(text: str) -> None:
    with Path(sys.argv[1]).open("a") as file:
        file.write(text + "\n")


class Datagrams(asyncio.DatagramProtocol):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        note(f"udp {data[:20]!r} from {addr}")


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if data := await reader.read(20):
        note(f"tcp {data!r}")
    writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    for port in PORTS:
        await loop.create_datagram_endpoint(Datagrams, local_addr=("0.0.0.0", port))  # noqa: S104
        await asyncio.start_server(stream, "0.0.0.0", port)  # noqa: S104
    await asyncio.Future()


asyncio.run(main())
