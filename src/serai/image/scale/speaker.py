"""VMs as the servers see them: connections that do what members of a fleet do."""

from __future__ import annotations

import asyncio
import json
import os

from nats.aio.msg import Msg

from serai.fleet import subjects
from serai.fleet.connection import Connection
from serai.image.scale.cluster import Cluster, member
from serai.image.scale.spent import repeated

NEWS = {"load": 0.1234, "sessions": 100, "ready": 8}
ALIVE = json.dumps({**NEWS, "problem": ""}).encode()
OFFER = json.dumps({**NEWS, "vm": "vm-1", "full": False}).encode()


class Speaker:
    """Speaks with the servers as the member of one VM does."""

    def __init__(self, of: Cluster, number: int) -> None:
        self.name = member(number)
        keys, inbox = of.folder / "vms" / self.name, f"_INBOX.{self.name}"
        self.connection = Connection(of.addresses, keys, self.name, inbox)
        self._labels = (f"zone-{number % 3}", os.uname().machine, "debian-12-amd64")
        self._waiting: dict[str, asyncio.Event] = {}
        self.beating = asyncio.Lock()
        self.heard = 0

    async def open(self) -> None:
        """Connect, and subscribe to what a member does."""
        await self.connection.open(120)
        down = f"serai.down.{self.name}"
        for subject in (f"{down}.link.*.*", f"{down}.open", f"{down}.ask"):
            await self.connection.subscribe(subject, self._hear)
        for keys in (self.name, f"{self.name}.>"):
            await self.connection.subscribe(f"{subjects.KEPT}.*.{keys}", self._kept)
        for place in subjects.places(*self._labels):
            await self.connection.subscribe(place, self._offer, subjects.QUEUE)
        await self.connection.nats.flush(60)

    def server(self) -> str:
        """Which server it is connected to; that is random."""
        return str(self.connection.nats.connected_url)

    async def put(self, key: str, text: bytes) -> None:
        """Put a row, and wait until the servers have it."""
        kept = self._waiting[key] = asyncio.Event()
        await self.connection.publish(f"$KV.{key}", text)
        await asyncio.wait_for(kept.wait(), 30)

    async def _kept(self, message: Msg) -> None:
        if (kept := self._waiting.pop(message.subject[len(subjects.KEPT) + 1 :], None)) is not None:
            kept.set()

    async def _hear(self, message: Msg) -> None:
        self.heard += len(message.data)
        if message.reply:
            await message.respond(OFFER)

    async def _offer(self, message: Msg) -> None:
        await message.respond(OFFER)


async def joined(of: Cluster, count: int, begin: int = 0) -> list[Speaker]:
    """So many VMs that are connected."""
    vms = [Speaker(of, begin + number) for number in range(count)]
    await repeated(lambda number: vms[number].open(), count, 8)
    return vms


async def closed(vms: list[Speaker]) -> None:
    """Have them hang up."""
    await repeated(lambda number: vms[number].connection.close(), len(vms), 16)
