"""What a VM tells of its sessions: a row each, put when it changes, and taken back at its end.

The VM cannot read what it has told: its certificate reads nothing. So it keeps the names in a file,
which is written before a row is put for the first time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from serai.common import files

log = logging.getLogger("serai")

Put = Callable[[str, bytes | None], Awaitable[bool]]
"""Puts a row, or with None takes it back; false if no server said that it has it."""
LONGEST = 64 << 10
AT_ONCE = 16
AGAIN = 1.0


class Rows:
    """``sessions`` is what there is now."""

    def __init__(self, state: Path, put: Put) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self._state, self._put = state, put
        self._told: dict[str, bytes | None] = dict.fromkeys(_names(state))
        self._known = set(self._told)  # what the file has
        self._open = asyncio.Event()
        self._whole = False  # whether ``sessions`` was all of them once

    def changed(self, session: dict[str, Any]) -> None:
        """A session is there, or is another than it was."""
        self.sessions[session["name"]] = session
        self._open.set()

    def removed(self, name: str) -> None:
        """A session is gone."""
        self.sessions.pop(name, None)
        self._open.set()

    def all(self, sessions: Iterable[dict[str, Any]]) -> None:
        """These are all that there are."""
        self.sessions = {each["name"]: each for each in sessions}
        self._whole = True
        self._open.set()

    def tell_again(self) -> None:
        """Nobody may know what was told."""
        self._told = dict.fromkeys(self._told)
        self._open.set()

    async def run(self) -> None:
        """Tell what is not told yet, until cancelled."""
        while True:
            await self._open.wait()
            self._open.clear()
            if not await self.tell():
                await asyncio.sleep(AGAIN)
                self._open.set()

    async def tell(self) -> bool:
        """Tell all that is not told yet; false if something could not be."""
        if not self._whole:
            return True
        rows = {name: row(session) for name, session in self.sessions.items()}
        if not rows.keys() <= self._known:
            self._keep(rows.keys() | self._told.keys())
        due = [name for name in rows if rows[name] != self._told.get(name)]
        due += [name for name in self._told if name not in rows]
        limit = asyncio.Semaphore(AT_ONCE)

        async def tell_one(name: str) -> bool:
            async with limit:
                done = await self._put(name, rows.get(name))
            if done and name in rows:
                self._told[name] = rows[name]
            elif done:
                self._told.pop(name, None)
            return done

        done = await asyncio.gather(*map(tell_one, due))
        if all(done) and self._known != self._told.keys():
            self._keep(self._told.keys())
        return all(done)

    def _keep(self, names: Iterable[str]) -> None:
        self._known = set(names)
        files.write(self._state, json.dumps(sorted(self._known)).encode(), 0o600)


def row(session: dict[str, Any]) -> bytes:
    """What is told of a session: what ``session.changed`` says, but for when it was used last."""
    keys = ("name", "uid", "state", "goal", "labels", "created_at", "changed_at")
    made = {key: session.get(key) for key in keys}
    text = json.dumps(made).encode()
    return text if len(text) <= LONGEST else json.dumps({**made, "labels": {}}).encode()


def _names(state: Path) -> list[str]:
    try:
        return [str(each) for each in json.loads(state.read_bytes())]
    except FileNotFoundError:
        return []
    except ValueError:
        log.warning("%s is damaged: rows of sessions that are gone may stay", state)
        return []
