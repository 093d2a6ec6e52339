"""Look-ups of a session: their number is limited, and concurrent ones for a name are shared."""

from __future__ import annotations

import asyncio

from serai.gate.connections.dial import Resolve
from serai.gate.policy.hosts import Address

KEPT = 1.0
"""Seconds for which an answer is used: programs open many connections to a host in a row, and a
look-up in a thread costs more than all else about one."""


class Lookups:
    """The look-ups of one session. No session can learn another's names from response times.

    ``most`` look-ups may run at once.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._answers: dict[str, asyncio.Future[list[Address]]] = {}

    def known(self, name: str) -> list[Address] | None:
        """The addresses of ``name`` if they were found less than KEPT seconds ago."""
        answer = self._answers.get(name)
        if answer is None or not answer.done() or answer.cancelled() or answer.exception():
            return None
        return answer.result()

    async def find(self, name: str, resolve: Resolve) -> list[Address]:
        """The addresses of ``name``. Raises what ``resolve`` raises.

        A look-up counts until the resolver is done, even if no connection waits for it any more.
        Otherwise a session with slow names could use up the resolver for all others.
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
