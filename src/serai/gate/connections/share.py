"""Each session's share of the gate's one thread, and of its memory.

One thread and one loop serve all sessions. In each turn of the loop a session may use QUANTUM
seconds of the processor. What it uses beyond that is taken from its next turns, and until then its
work waits in line (deficit round robin). So a session with hundreds of busy connections has as much
as one with a single connection, and if nobody else wants anything, the next turn comes at once.

While it does nothing a session saves up for a small request, which then need not wait at all: it
takes many turns, and in each of them others would have a step.

Pieces that have been read and that nobody takes yet are counted as well. A session that has many
of them reads small pieces only.

A session that is alone has larger pieces, which carry a sixth more bytes in the same time: a step
with such a piece is longer than another session should have to wait.
"""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ClassVar, TypeVar

# Seconds in a turn of the loop. A small request takes at least four turns and half a millisecond.
QUANTUM = 0.00005
ALONE_QUANTUM = 0.0002  # where nobody waits, but somebody may come
SAVINGS = 0.001  # seconds at most, saved in as much time
PIECE = 64 << 10
LARGE_PIECE = 256 << 10
SMALL_PIECE = 4 << 10
ALONE = 0.1  # seconds without a step of another session's, after which pieces are large
BUFFERED = 8 << 20  # bytes that nobody takes yet, before pieces are small
_MOST_WOKEN = 64
clock, wall = time.thread_time, time.monotonic

T = TypeVar("T")


class Share:
    """What one session has used.

    ``held`` is how many bytes of it nobody has taken yet, ``slots`` how many its pipes
    have, and ``roomy`` are its clients' connections that the kernel keeps more for.
    """

    _last: ClassVar[Share | None] = None  # who had the last step

    def __init__(self) -> None:
        self.held = 0
        self.slots = 0
        self.roomy: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._quantum = self._left = QUANTUM
        self._saved = SAVINGS
        self._rests = wall()  # since when it has done nothing, unless it has debts
        self._since_other = 0.0  # since when it has had all steps (wall())
        self._since = 0.0
        self._each = QUANTUM  # what a step has cost of late
        self._line: deque[Callable[[], None]] = deque()
        self._ticking = False

    @property
    def piece(self) -> int:
        """How many bytes to read at once."""
        if self.held >= BUFFERED:
            return SMALL_PIECE
        return LARGE_PIECE if self.alone else PIECE

    @property
    def alone(self) -> bool:
        """Whether no other session has had a step of late."""
        return Share._last is self and wall() - self._since_other >= ALONE

    @property
    def busy(self) -> bool:
        """Whether whoever wants a step now has to wait in line."""
        return self._left <= 0 or bool(self._line)

    def begin(self) -> None:
        """A step of the session begins."""
        now = wall()
        if Share._last is not self:
            Share._last, self._since_other = self, now
        if not self._ticking:
            self._saved = min(SAVINGS, self._saved + now - self._rests)
        self._since = clock()

    def end(self) -> None:
        """The step has ended: charge what it used."""
        used = clock() - self._since
        self._left -= used
        self._each += (used - self._each) / 8
        if self._left < self._quantum and self._saved > 0:
            paid = min(self._saved, self._quantum - self._left)
            self._left += paid
            self._saved -= paid
        self._rests = wall()
        if self._left < self._quantum:
            self._tick()

    def overdue(self) -> bool:
        """Whether the step has used a whole turn and must let others run."""
        return clock() - self._since >= self._quantum

    def wait(self, work: Callable[[], None]) -> None:
        """Call ``work`` when it is its turn."""
        self._line.append(work)
        self._tick()

    def _tick(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Once in each turn of the loop while the session has debts or work in line."""
        self._ticking = False
        quantum = self._quantum = ALONE_QUANTUM if self.alone else QUANTUM
        self._left = min(quantum, self._left + quantum)
        if self._left > 0:
            # What is woken may have its step in the next turn only: guess how many fit in.
            fit = int(self._left / max(self._each, quantum / _MOST_WOKEN))
            for _ in range(min(len(self._line), max(1, fit))):
                self._line.popleft()()
        if self._line or self._left < quantum:
            self._tick()


async def metered(share: Share, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do ``work``; each of its steps between two awaits is charged, and waits while others do."""
    result: T = await _Metered(share, work())
    return result


class _Metered:
    def __init__(self, share: Share, work: Coroutine[Any, Any, T]) -> None:
        self._share = share
        self._work = work

    def __await__(self) -> Generator[Any, None, Any]:
        share, work = self._share, self._work
        failure: BaseException | None = None
        try:
            while True:
                try:
                    if share.busy and not isinstance(failure, asyncio.CancelledError):
                        yield from _in_line(share)
                except BaseException as error:
                    failure = error
                share.begin()
                try:
                    awaited = work.send(None) if failure is None else work.throw(failure)
                except StopIteration as result:
                    return result.value
                finally:
                    share.end()
                failure = None
                try:
                    yield awaited
                except BaseException as error:
                    failure = error
        finally:
            work.close()


def _in_line(share: Share) -> Generator[Any, None, None]:
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def come() -> None:
        if not turn.done():
            turn.set_result(None)

    share.wait(come)
    yield from turn
