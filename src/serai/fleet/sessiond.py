"""What a member wants to know of its own sessiond: the sessions, whenever they change."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import SeraiError
from serai.fleet.rows import Rows

log = logging.getLogger("serai")
POOL_EVERY, ALL_EVERY = 5.0, 60.0
AGAIN = 1.0


class Sessiond:
    """``problem`` says why it cannot be asked, "" while it can; ``ready`` sessions are in its
    pool."""

    def __init__(self, control: Path, rows: Rows) -> None:
        self._control, self._rows = control, rows
        self.problem = "sessiond was not asked yet"
        self.ready = 0
        self.turned = asyncio.Event()
        """It is there, or it is not there any more."""

    async def run(self) -> None:
        """Follow it, whenever it is there, until cancelled."""
        while True:
            try:
                await self._follow()
            except (OSError, EOFError, ValueError, KeyError, TypeError, SeraiError) as error:
                said = str(error) or type(error).__name__
                if not self.problem:
                    log.warning("sessiond is not there: %s", said)
                    self.turned.set()
                self.problem = f"sessiond is not there: {said}"
            await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_unix_connection(
            self._control, limit=jsonrpc.LONGEST_ANSWER
        )
        asking = asyncio.create_task(self._ask(writer))
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
            raise EOFError("it hung up")
        finally:
            asking.cancel()
            writer.close()

    async def _ask(self, writer: asyncio.StreamWriter) -> None:
        writer.write(jsonrpc.call("subscribe", "subscribe", {}))
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if loop.time() >= due:
                due = loop.time() + ALL_EVERY
                writer.write(jsonrpc.call("list", "list", {}))
            writer.write(jsonrpc.call("pool", "pool", {}))
            await asyncio.sleep(POOL_EVERY)

    def _take(self, message: dict[str, Any]) -> None:
        event = message.get("method")
        if event == "session.changed":
            self._rows.changed(message["params"])
        elif event == "session.removed":
            self._rows.removed(message["params"]["name"])
        elif message.get("id") == "list":
            self._rows.all(jsonrpc.answered(message)["sessions"])
            if self.problem:
                self.turned.set()
            self.problem = ""
        elif message.get("id") == "pool":
            self.ready = int(jsonrpc.answered(message)["ready"])
        elif message.get("id") == "subscribe":
            jsonrpc.answered(message)
