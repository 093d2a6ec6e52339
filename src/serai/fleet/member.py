"""serai-fleet.service: a VM's part in a fleet. It carries links to sessiond, and offers room.

It connects out, and does for the fleet's clients what its own group ``serai`` may: it reads nothing
of what they say to sessiond.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from serai import __version__
from serai.common import files, stdio
from serai.common.errors import SeraiError
from serai.common.notify import notify
from serai.common.paths import Paths
from serai.fleet import settings, subjects
from serai.fleet.connection import Connection
from serai.fleet.frames import CHUNK, broken
from serai.fleet.links import Links, carry
from serai.fleet.room import Occupancy
from serai.fleet.rows import Rows
from serai.fleet.sessiond import Sessiond
from serai.fleet.settings import MemberPaths, MemberSettings
from serai.runtime.image import image

log = logging.getLogger("serai")
MOST_LINKS = 500
"""sessiond takes 512 clients."""
ANSWER = 2.0
"""Seconds for a server to say that it has a row."""
AGAIN = 1.0
"""Seconds after which it is told again if nobody said so."""
TELL_AGAIN = 3600.0
"""Seconds after which all is told once more, should the servers have lost it."""


class Member:
    """One VM's."""

    def __init__(self, root: Path, rules: MemberSettings, paths: MemberPaths) -> None:
        self.vm = rules.name
        self._rules, self._paths = rules, paths
        self._control = Paths(root).control
        self._connection = Connection(
            rules.servers, paths.credentials, f"{self.vm}, a VM", f"_INBOX.{self.vm}"
        )
        self._links = Links(self._connection.publish)
        self._connection.again = self._links.again
        self._rows = Rows(paths.rows, self._put_row)
        self._room = Occupancy(rules.room.sessions, root, asyncio.get_running_loop().time)
        self._sessiond = Sessiond(self._control, self._rows)
        self._taking_part = asyncio.Lock()
        self._answers: list[Callable[[], Awaitable[None]]] = []
        made_of = "/".join((image() or {}).values())
        self._labels = (rules.labels.zone, platform.machine(), made_of)
        self._told: bytes | None = None
        self._kept: dict[str, tuple[bytes, asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Be the fleet's, until the connection is closed for good. Raises SeraiError."""
        await self._connection.open(None)
        down = f"serai.down.{self.vm}"
        await self._connection.subscribe(f"{down}.link.*.*", self._frame)
        await self._connection.subscribe(f"{down}.open", self._open)
        await self._connection.subscribe(f"{down}.ask", self._ask)
        for keys in (self.vm, f"{self.vm}.>"):
            await self._connection.subscribe(f"{subjects.KEPT}.*.{keys}", self._is_kept)
        notify("READY=1")
        parts = (self._links.run(), self._rows.run(), self._sessiond.run(), self._beat())
        running: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in parts]
        closed: asyncio.Task[Any] = asyncio.create_task(self._connection.closed.wait())
        running.append(closed)
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            raise SeraiError(f"the server ended the connection: {self._connection.said or 'why?'}")
        finally:
            for each in running:
                each.cancel()
            await self._connection.close()

    async def _beat(self) -> None:
        """Say that the VM lives, and take part in placing while it has room."""
        loop = asyncio.get_running_loop()
        again = loop.time() + TELL_AGAIN
        while True:
            if loop.time() > again:
                again, self._told = loop.time() + TELL_AGAIN, None
                self._rows.tell_again()
            self._room.count(self._rows.sessions)
            await self._take_part()
            await self._tell_what_it_is()
            news: dict[str, Any] = {
                "load": round(self._room.load, 4),
                "sessions": self._room.sessions,
            }
            news |= {"ready": self._sessiond.ready, "problem": self._problem}
            told = await self._put(f"{subjects.ALIVE}.{self.vm}", json.dumps(news).encode())
            with contextlib.suppress(asyncio.TimeoutError):
                pause = subjects.BEAT if told else AGAIN
                await asyncio.wait_for(self._sessiond.turned.wait(), pause)
            self._sessiond.turned.clear()

    @property
    def _problem(self) -> str:
        """Why it takes no session, though it does not drain."""
        return self._sessiond.problem or self._room.full

    async def _take_part(self) -> None:
        """Be among those who are asked for a place, or not: wholly, and one change at a time."""
        async with self._taking_part:
            why = "it drains" if self._draining else self._problem
            if not why and not self._answers:
                for subject in subjects.places(*self._labels):
                    end = await self._connection.subscribe(subject, self._offer, subjects.QUEUE)
                    self._answers.append(end)
                log.info("takes new sessions")
            elif why and self._answers:
                while self._answers:
                    await self._answers.pop()()
                log.info("takes no new session: %s", why)

    async def _tell_what_it_is(self) -> None:
        zone, architecture, made_of = self._labels
        text = json.dumps(
            {
                "version": __version__,
                "zone": zone,
                "architecture": architecture,
                "image": made_of,
                "room": self._rules.room.sessions,
                "draining": self._draining,
            }
        ).encode()
        if text != self._told and await self._put(f"{subjects.VMS}.{self.vm}", text):
            self._told = text

    @property
    def _draining(self) -> bool:
        return self._paths.draining.exists()

    async def _put_row(self, name: str, row: bytes | None) -> bool:
        return await self._put(f"{subjects.SESSIONS}.{self.vm}.{name}", row)

    async def _put(self, key: str, text: bytes | None) -> bool:
        """Put a key, or with None delete it; false if no server tells that it has kept it."""
        headers = None if text is not None else {"KV-Operation": "DEL"}
        _, kept = self._kept[key] = (text or b"", asyncio.Event())
        try:
            await self._connection.publish(f"$KV.{key}", text or b"", headers)
            await asyncio.wait_for(kept.wait(), ANSWER)
        except asyncio.TimeoutError:
            log.warning("%s is not told: no server has kept it", key)
        finally:
            if self._kept[key][1] is kept:
                del self._kept[key]
        return kept.is_set()

    async def _is_kept(self, message: Msg) -> None:
        text, kept = self._kept.get(message.subject[len(subjects.KEPT) + 1 :], (None, None))
        if kept is not None and message.data == text:
            kept.set()

    async def _offer(self, message: Msg) -> None:
        self._room.count(self._rows.sessions)
        full = self._draining or bool(self._room.full)
        offer = {"vm": self.vm, "load": self._room.load, "sessions": self._room.sessions}
        if not full:
            self._room.offered()
        await _answer(message, {**offer, "ready": self._sessiond.ready, "full": full})

    async def _ask(self, message: Msg) -> None:
        try:
            wish = json.loads(message.data)["do"]
        except (ValueError, KeyError, TypeError):
            wish = ""
        if wish not in ("drain", "undrain", "status"):
            await _answer(message, {"error": "ask for status, drain or undrain"})
            return
        try:
            if wish == "drain":
                files.write(self._paths.draining, b"")
            elif wish == "undrain":
                self._paths.draining.unlink(missing_ok=True)
        except OSError as error:  # above all a full disk
            await _answer(message, {"error": f"{self._paths.draining}: {error.strerror}"})
            return
        log.info("asked for: %s", wish)
        await self._take_part()
        await self._tell_what_it_is()
        said = {"draining": self._draining, "sessions": len(self._rows.sessions)}
        await _answer(message, {"vm": self.vm, **said, "links": len(self._links)})

    async def _frame(self, message: Msg) -> None:
        key = ".".join(message.subject.split(".")[-2:])
        if not self._links.hear(key, message.data) and subjects.is_link(key):
            # Of a member before this one: the client need not wait to learn that it is over.
            self._links.publish(self._up(key), broken("the VM knows it no longer"))

    async def _open(self, message: Msg) -> None:
        task = asyncio.create_task(self._opened(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _opened(self, message: Msg) -> None:
        try:
            asked = json.loads(message.data)
            key, client = str(asked["link"]), str(asked.get("client", ""))[:64]
        except (ValueError, KeyError, TypeError, AttributeError):
            key, client = "", ""
        if subjects.is_link(key) and key in self._links:  # the answer was lost with a server
            await _answer(message, {"link": key})
            return
        problem = ""
        if not subjects.is_link(key):
            problem = "this is no link's name"
        elif len(self._links) >= MOST_LINKS:
            problem = f"there are {MOST_LINKS} links already"
        if problem:
            await _answer(message, {"error": problem})
            return
        link = self._links.made(key, self._up(key), client)
        try:
            reader, writer = await asyncio.open_unix_connection(self._control, limit=CHUNK)
        except OSError as error:
            self._links.forget(link)
            await _answer(message, {"error": f"sessiond does not answer: {error.strerror}"})
            return
        log.info("link %s of %s", key[:8], ascii(client))
        await _answer(message, {"link": key})
        try:
            await carry(link, reader, writer)
        except (SeraiError, OSError):  # whoever hung up knows
            pass
        finally:
            writer.close()
            await link.close()

    def _up(self, key: str) -> str:
        return f"serai.up.{self.vm}.link.{key}"


async def _answer(message: Msg, said: dict[str, Any]) -> None:
    if message.reply:
        with contextlib.suppress(Exception):  # nobody hears it any more
            await message.respond(json.dumps(said).encode())


async def _main(root: Path) -> None:
    paths = MemberPaths(root)
    paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    member = Member(root, settings.load(paths), paths)
    running = asyncio.ensure_future(member.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, partial(running.cancel))
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main(arguments: list[str]) -> int:
    """Be the member; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.umask(0o077)
    try:
        asyncio.run(_main(Path(arguments[0] if arguments else "/")))
    except SeraiError as error:
        print(f"serai-fleet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    stdio.begin()
    sys.exit(main(sys.argv[1:]))
