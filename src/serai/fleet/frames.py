"""A link's frames, and what each end of it knows. Nothing here does input or output.

A link carries the bytes of one connection both ways, through servers that may lose, double and
reorder what they carry when one of them dies. So each byte has a number: who hears a gap says from
where on it wants all again (go-back-N), and who has been answered nothing for a while sends again
by itself. What has been *taken* at one end lets as much follow from the other, and no more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

DATA, END, NEWS, AGAIN, PING, BROKEN = range(1, 7)
"""Bytes; that none follow; what has come; the same, and to send all after it again; the same, and
to answer; that it is all over."""

WINDOW = 256 << 10
"""Bytes that may be on their way in one direction."""
CHUNK = 32 << 10
SILENCE = 30.0
"""Seconds after which an end that says nothing is gone."""
PING_EVERY = 5.0
PATIENCE = 1.0
"""Seconds without an answer after which all is sent again."""
_HEAD = struct.Struct(">BQQQ")
_TOLD = WINDOW // 4


class BrokenLinkError(Exception):
    """It is over, before both ends were done."""


@dataclass(frozen=True)
class Frame:
    """``at`` is the number of its first byte. Its sender has ``have`` bytes of the other
    direction, the end counting as one, and somebody took ``taken`` of them.
    """

    kind: int
    at: int
    have: int
    taken: int
    data: bytes = b""

    def packed(self) -> bytes:
        """As it is sent."""
        return _HEAD.pack(self.kind, self.at, self.have, self.taken) + self.data

    @classmethod
    def unpacked(cls, text: bytes) -> Frame:
        """What came. Raises BrokenLinkError if it is no frame."""
        if not _HEAD.size <= len(text) <= _HEAD.size + CHUNK:
            raise BrokenLinkError("what comes is no frame")
        kind, at, have, taken = _HEAD.unpack_from(text)
        frame = cls(kind, at, have, taken, text[_HEAD.size :])
        if not DATA <= frame.kind <= BROKEN:
            raise BrokenLinkError("what comes is no frame of this version")
        return frame


class LinkEnd:
    """One end of a link: what it has sent and heard. Times are seconds of any clock.

    Of the bytes that go, ``_total`` were given, and their end if ``_last``; the other end has those
    before ``_acked``, those before ``_sent`` are on their way, and none from ``_let`` on may be.
    """

    def __init__(self, now: float) -> None:
        self._out = bytearray()  # from _acked to _total
        self._acked = self._sent = self._total = 0
        self._let = WINDOW
        self._last = False
        self._have = self._taken = 0  # of what comes
        self._told = (0, 0)  # what the other end was told of both
        self._gap = self._news = self._ping = False  # what is to be said
        self._asked = -1  # what was sent again because the other end asked
        self.ended = False
        """Whether all has come that will."""
        self._heard = self._said = self._moved = now
        self._patience = PATIENCE

    @property
    def room(self) -> int:
        """How many bytes it takes now, to go."""
        return 0 if self._last else max(0, self._let - self._total)

    @property
    def waits(self) -> bool:
        """Whether something that was given has not arrived yet, be it the end."""
        return self._acked < self._total + self._last

    def give(self, data: bytes) -> None:
        """Take bytes to go, at most as many as there is room for."""
        if len(data) > self.room:
            raise ValueError("there is no room")
        self._out += data
        self._total += len(data)

    def finish(self) -> None:
        """No more bytes go."""
        self._last = True

    def passed(self, size: int) -> None:
        """So many bytes of those that came were taken."""
        self._taken += size

    def hear(self, frame: Frame, now: float) -> bytes:
        """Note what came; returns the bytes that are new. Raises BrokenLinkError."""
        if frame.kind == BROKEN:
            raise BrokenLinkError(frame.data.decode(errors="replace") or "it was ended there")
        self._heard = now
        self._answered(frame, now)
        self._news |= frame.kind in (END, PING, AGAIN)
        if frame.kind == DATA:
            return self._arrived(frame)
        if frame.kind == END and not self.ended:
            self._gap |= frame.at > self._have
            if frame.at == self._have:
                self.ended = True
                self._have += 1
                self._taken += 1  # nobody has to take an end
        return b""

    def again(self) -> None:
        """What was on its way may be lost: send it again, and ask for the same."""
        self._sent, self._gap = self._acked, True

    def tick(self, now: float) -> None:
        """See to what has waited for too long. Raises BrokenLinkError."""
        if now - self._heard > SILENCE:
            raise BrokenLinkError(f"nothing was heard for {SILENCE:g} s")
        if self._acked < self._sent and now - self._moved > self._patience:
            self._sent, self._moved = self._acked, now
            self._patience = min(2 * self._patience, PING_EVERY)
        self._ping |= now - self._said >= PING_EVERY
        self._news |= self._told < (self._have, self._taken)

    def frames(self, now: float) -> Iterator[Frame]:
        """What is to be sent now."""
        if self._sent == self._acked:
            self._moved = now
        while self._sent < self._total:
            at = self._sent - self._acked
            data = bytes(self._out[at : at + CHUNK])
            yield self._frame(DATA, self._sent, now, data)
            self._sent += len(data)
        if self._last and self._sent == self._total:
            yield self._frame(END, self._sent, now)
            self._sent += 1
        for asked, kind in ((self._gap, AGAIN), (self._ping, PING)):
            if asked:
                yield self._frame(kind, self._sent, now)
        self._gap = self._ping = False
        have, taken = self._told
        if self._news or max(self._have - have, self._taken - taken) >= _TOLD:
            yield self._frame(NEWS, self._sent, now)

    def _answered(self, frame: Frame, now: float) -> None:
        if frame.have > self._total + self._last or frame.taken > frame.have:
            raise BrokenLinkError("the other end has what was not sent")
        self._let = max(self._let, frame.taken + WINDOW)
        if frame.have > self._acked:
            del self._out[: frame.have - self._acked]
            self._acked = frame.have
            self._sent = max(self._sent, self._acked)
            self._moved, self._patience, self._asked = now, PATIENCE, -1
        if frame.kind == AGAIN and frame.have == self._acked != self._asked:
            self._asked, self._sent, self._moved = frame.have, self._acked, now

    def _arrived(self, frame: Frame) -> bytes:
        end = frame.at + len(frame.data)
        if end > self._have and (self.ended or end > self._taken + WINDOW):
            raise BrokenLinkError("more comes than may")
        if frame.at > self._have:
            self._gap = True
            return b""
        fresh = frame.data[self._have - frame.at :]
        self._have += len(fresh)
        self._news |= not fresh  # what was said about it may be lost
        return fresh

    def _frame(self, kind: int, at: int, now: float, data: bytes = b"") -> Frame:
        self._said, self._told, self._news = now, (self._have, self._taken), False
        return Frame(kind, at, self._have, self._taken, data)


def broken(why: str) -> bytes:
    """What tells the other end that it is over."""
    return Frame(BROKEN, 0, 0, 0, why.encode()[:200]).packed()
