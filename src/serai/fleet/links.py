"""Links of this process: ends of them whose frames go over one connection to NATS.

Whoever reads and writes waits for its own link only. What a link keeps is bounded by its window.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from serai.common.errors import GONE, SeraiError
from serai.fleet.frames import BROKEN, CHUNK, BrokenLinkError, Frame, LinkEnd, broken

Publish = Callable[[str, bytes], Awaitable[None]]
TICK = 0.25
GOODBYE = 2.0
"""Seconds for the other end to say that it has all, when this one has ended."""


class Link:
    """One end. ``subject`` is what the other end hears, and ``peer`` who messages say it is."""

    def __init__(self, links: Links, key: str, subject: str, peer: str, *, known: bool) -> None:
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._end = LinkEnd(self._loop.time())
        self.key, self._subject, self._peer = key, subject, peer
        self._input = bytearray()
        self.known = known
        """Whether the other end knows the link; before it does, what it hears of it ends it."""
        self._why: str | None = None
        self._woken = asyncio.Event()

    async def read(self) -> bytes:
        """What has come; nothing if all has. Say with ``passed`` what was taken of it.

        Raises SeraiError if the link broke.
        """
        while not self._input:
            if self._end.ended:
                return b""
            await self._change()
        data = bytes(self._input)
        self._input.clear()
        return data

    async def write(self, data: bytes) -> None:
        """Have it sent, as soon as there is room. Raises SeraiError if the link broke."""
        rest = memoryview(data)
        while rest:
            self._check()
            if size := min(self._end.room, len(rest)):
                self._end.give(bytes(rest[:size]))
                rest = rest[size:]
                self.flush()
            else:
                await self._change()

    def passed(self, size: int) -> None:
        """So many bytes were taken, and as many may follow."""
        self._end.passed(size)
        self.flush()

    async def close(self) -> None:
        """End this direction, wait a little until that has arrived, and forget the link.

        Whoever still waits for it is told.
        """
        self._end.finish()
        self.flush()
        with contextlib.suppress(SeraiError, asyncio.TimeoutError):
            await asyncio.wait_for(self._arrived(), GOODBYE)
        self._break("it was closed")

    def cut(self, why: str) -> None:
        """It is over: whoever waits for it is told ``why``, and the other end too."""
        if self._why is None:
            self._links.publish(self._subject, broken(why))
            self._break(why)

    def hear(self, text: bytes) -> None:
        """Take what the other end sent."""
        if self._why is not None:
            return
        try:
            frame = Frame.unpacked(text)
            self._input += self._end.hear(frame, self._loop.time())
        except BrokenLinkError as error:
            if len(text) and text[0] == BROKEN:
                self._break(str(error))
            else:
                self.cut(str(error))
            return
        self._woken.set()
        self.flush()

    def again(self) -> None:
        """What was on its way may be lost."""
        if self.known:
            self._end.again()
            self.flush()

    def tick(self) -> None:
        """See to what waits."""
        if not self.known:
            return
        try:
            self._end.tick(self._loop.time())
        except BrokenLinkError as error:
            self.cut(str(error))
            return
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent."""
        if self._why is None:
            for frame in self._end.frames(self._loop.time()):
                self._links.publish(self._subject, frame.packed())

    def _break(self, why: str) -> None:
        self._why = self._why or why
        self._woken.set()
        self._links.forget(self)

    def _check(self) -> None:
        if self._why is not None:
            raise SeraiError(f"the connection to {self._peer} broke: {self._why}", code=GONE)

    async def _change(self) -> None:
        """Wait until something has come. Raises SeraiError if nothing can."""
        self._check()
        self._woken = woken = self._woken if not self._woken.is_set() else asyncio.Event()
        await woken.wait()
        self._check()

    async def _arrived(self) -> None:
        while self._end.waits:
            await self._change()


async def carry(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes between a link and a connection, until one of them ends.

    Raises SeraiError or OSError if it broke.
    """
    writer.transport.set_write_buffer_limits(high=CHUNK)

    async def out() -> None:
        while data := await link.read():
            writer.write(data)
            await writer.drain()
            link.passed(len(data))

    async def back() -> None:
        while data := await reader.read(CHUNK):
            await link.write(data)

    running = {asyncio.create_task(out()), asyncio.create_task(back())}
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in running:
            each.cancel()
    for each in done:
        each.result()


class Links:
    """All links of this process; ``publish`` of the connection to NATS sends their frames."""

    MOST_WAITING = 4096
    """Frames that wait for the way to the server. What is more is lost, and sent again."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._links: dict[str, Link] = {}
        self._frames: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(self.MOST_WAITING)

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, key: str) -> bool:
        return key in self._links

    def made(self, key: str, subject: str, peer: str, *, known: bool = True) -> Link:
        """An end of a new link, which the other end knows already or is about to be told of."""
        link = self._links[key] = Link(self, key, subject, peer, known=known)
        return link

    def hear(self, key: str, text: bytes) -> bool:
        """Take a frame; false if there is no such link."""
        if (link := self._links.get(key)) is None:
            return False
        link.hear(text)
        return True

    def publish(self, subject: str, text: bytes) -> None:
        """Send a frame when its turn comes."""
        with contextlib.suppress(asyncio.QueueFull):
            self._frames.put_nowait((subject, text))

    def again(self) -> None:
        """The connection is a new one: what was on its way may be lost."""
        for link in list(self._links.values()):
            link.again()

    def cut(self, why: str) -> None:
        """There will be no connection any more."""
        for link in list(self._links.values()):
            link.cut(why)

    def forget(self, link: Link) -> None:
        """It is over."""
        if self._links.get(link.key) is link:
            del self._links[link.key]

    async def run(self) -> None:
        """Send frames and see to what waits, until cancelled."""
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                await self._publish(*await self._frames.get())
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for link in list(self._links.values()):
                link.tick()
