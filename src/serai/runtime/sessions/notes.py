"""What sessiond tells the gate for the audit log: what was done with sessions, and by whom.

``now`` is for what may not be done unless it is noted. ``later`` costs its caller nothing: entries
wait in a queue, which is sent in batches. The queue is in memory: what sessiond had not sent when
it was killed is lost, and nothing is sent twice. So execs of the last second may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import Any

from serai.common.errors import SeraiError
from serai.common.labels import DOCTOR
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.steps.gate_client import GateClient

log = logging.getLogger(__name__)
Entry = dict[str, Any]
Told = asyncio.Future[SeraiError | None]
MOST = 10_000
"""Entries that wait; of those that come then, the log says how many there were."""
BATCH = 200
"""The gate serves nobody while it writes so many, which takes 6 ms."""
PAUSE = 0.5
RETRY = 5.0
LAST = 2.0
"""Seconds for what still waits when the daemon ends."""
UNWRITTEN = SeraiError("the audit log cannot be written", "see the log of serai-gate.service")


class Notes:
    """The way of entries to the gate; they are written in the order in which they were made."""

    def __init__(self, gate: GateClient) -> None:
        self._gate = gate
        self._waiting: deque[Entry] = deque()
        self._urgent: list[tuple[Entry, Told]] = []
        self._dropped = 0
        self._sending, self._emptying = asyncio.Lock(), asyncio.Lock()
        self._there = asyncio.Event()

    async def now(self, entry: Entry) -> None:
        """Have an entry in the audit log, behind those that wait. Raises SeraiError if it is not.

        It may be there twice if the gate is killed just then.
        """
        told: Told = asyncio.get_running_loop().create_future()
        self._urgent.append((entry, told))
        try:
            async with self._sending:
                # Whoever had its turn before has sent for others, too.
                while not told.done():
                    await self._send_urgent()
        finally:
            # Whoever is sending it just now does so in vain, or it is there twice.
            if not told.done() and (entry, told) in self._urgent:
                self._urgent.remove((entry, told))
        if (error := told.result()) is not None:
            raise error

    def later(self, entry: Entry) -> None:
        """Have an entry in the audit log within a second, or as soon as the gate is there."""
        if len(self._waiting) < MOST:
            self._waiting.append(entry)
        else:
            self._dropped += 1
        self._there.set()

    def by_itself(self, operation: str, record: Record, **more: Any) -> None:
        """Note what sessiond does though nobody asked for it now."""
        self.later({"operation": operation, **of(record), **more, "by": ITSELF})

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            await self._there.wait()
            await asyncio.sleep(PAUSE)
            try:
                async with self._sending:
                    await asyncio.shield(self._send_waiting())
            except SeraiError as error:
                log.error("%d operations are not in the audit log: %s", len(self._waiting), error)
                await asyncio.sleep(RETRY)

    async def close(self) -> None:
        """Send what still waits; a gate that does not answer is not waited for."""
        with contextlib.suppress(SeraiError, asyncio.TimeoutError):
            await asyncio.wait_for(self._send_waiting(), LAST)

    async def _send_urgent(self) -> None:
        """Send what ``now`` was asked for, and tell each who asked how that went."""
        batch, self._urgent = self._urgent[:BATCH], self._urgent[BATCH:]
        error: SeraiError | None = UNWRITTEN
        noted = 0
        try:
            await asyncio.shield(self._send_waiting())
            noted = await self._send([entry for entry, _ in batch])
        except SeraiError as failed:
            error = failed
        except BaseException:  # the others' are sent by who has the next turn
            self._urgent = [*batch, *self._urgent]
            raise
        for at, (_, told) in enumerate(batch):
            if not told.done():
                told.set_result(None if at < noted else error)

    async def _send_waiting(self) -> None:
        """To be shielded: what the gate has is to leave the queue, or it would be sent again."""
        async with self._emptying:
            while self._waiting or self._dropped:
                batch = [self._waiting[at] for at in range(min(BATCH, len(self._waiting)))]
                dropped = 0 if batch[BATCH - 1 :] else self._dropped
                told = [{"operation": "dropped", "count": dropped, "by": ITSELF}] if dropped else []
                noted = await self._send([*batch, *told])
                for _ in batch[:noted]:
                    self._waiting.popleft()
                if noted < len(batch) + len(told):
                    raise UNWRITTEN
                self._dropped -= dropped
            self._there.clear()

    async def _send(self, entries: list[Entry]) -> int:
        """How many of them are in the audit log now. Raises SeraiError if the gate is not there."""
        answer = await self._gate.call("note", entries=entries)
        try:
            return int(answer["noted"])
        except (KeyError, TypeError, ValueError):
            raise UNWRITTEN from None


def of(record: Record) -> Entry:
    """The session, as every entry has it. The doctor's are marked, as the gate does too."""
    marked = {"doctor": True} if DOCTOR in record.labels else {}
    return {"session": record.name, "uid": record.uid, **marked}


ITSELF = {"uid": os.geteuid(), "pid": os.getpid(), "via": "sessiond"}
"""``by`` of what nobody asked for."""
