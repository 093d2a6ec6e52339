"""The names that a session asks for: so many at once, and each once if several connections ask."""

from __future__ import annotations

import asyncio

from serai.gate.dial import Resolve
from serai.gate.hosts import Address

KEPT = 1.0
"""Seconds for which an answer is used: programs open many connections to a host in a row, and a
look-up in a thread costs more than all else about one."""


class Lookups:
    """Every session has its own: none sees from the time it takes what another one asked for.

    ``most`` is how many may be under way.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._answers: dict[str, asyncio.Future[list[Address]]] = {}

    def known(self, name: str) -> list[Address] | None:
        """The addresses of ``name`` if they have been found just now."""
        answer = self._answers.get(name)
        if answer is None or not answer.done() or answer.cancelled() or answer.exception():
            return None
        return answer.result()

    async def find(self, name: str, resolve: Resolve) -> list[Address]:
        """The addresses of ``name``. Raises what ``resolve`` raises.

        A turn lasts until the resolver is done, also when nobody waits any longer: else a session
        with slow names would sooner or later take the resolver from all others.
        """
        if name not in self._answers:
            await self._free.acquire()
            if name in self._answers:  # somebody else had a turn meanwhile
                self._free.release()
            else:
                self._begin(name, resolve)
        return await asyncio.shield(self._answers[name])

    def _begin(self, name: str, resolve: Resolve) -> None:
        answer = self._answers[name] = asyncio.ensure_future(resolve(name))

        def done(answer: asyncio.Future[list[Address]]) -> None:
            self._free.release()
            if answer.cancelled() or answer.exception():
                del self._answers[name]
            else:
                asyncio.get_running_loop().call_later(KEPT, self._answers.pop, name)

        answer.add_done_callback(done)
