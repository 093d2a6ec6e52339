"""A link over servers that lose, double and reorder: no byte is lost, and none is too many."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.fleet.frames import (
    BROKEN,
    CHUNK,
    DATA,
    END,
    NEWS,
    PING_EVERY,
    SILENCE,
    WINDOW,
    BrokenLinkError,
    Frame,
    LinkEnd,
    broken,
)


class Way:
    """Two ends and the servers between them, which are as bad as ``chance`` says."""

    def __init__(self, seed: int, loss: float, double: float, reorder: float) -> None:
        self.random = random.Random(seed)
        self.loss, self.double, self.reorder = loss, double, reorder
        self.now = 0.0
        self.ends = (LinkEnd(0.0), LinkEnd(0.0))
        self.given, self.got = (bytearray(), bytearray()), (bytearray(), bytearray())
        self.waiting = [0, 0]
        self.flying: tuple[list[bytes], list[bytes]] = ([], [])

    def send(self) -> None:
        """Have both ends say what they have to say."""
        for at, end in enumerate(self.ends):
            for frame in end.frames(self.now):
                copies = 1 + (self.random.random() < self.double)
                for _ in range(copies):
                    if self.random.random() >= self.loss:
                        self.flying[1 - at].append(frame.packed())

    def arrive(self) -> None:
        for at, queue in enumerate(self.flying):
            if queue:
                here = self.random.randrange(len(queue)) if self._turns() else 0
                data = self.ends[at].hear(Frame.unpacked(queue.pop(here)), self.now)
                self.got[at].extend(data)
                self.waiting[at] += len(data)
                assert self.waiting[at] <= WINDOW

    def _turns(self) -> bool:
        return self.random.random() < self.reorder

    def step(self) -> None:
        self.now += 0.05
        for at, end in enumerate(self.ends):
            if self.random.random() < 0.5 and (room := min(end.room, 3 * CHUNK)):
                data = self.random.randbytes(self.random.randint(0, room))
                end.give(data)
                self.given[at].extend(data)
            if self.random.random() < 0.5:
                size = self.random.randint(0, self.waiting[at])
                self.waiting[at] -= size
                end.passed(size)
        self.send()
        for _ in range(4):
            self.arrive()
        for end in self.ends:
            end.tick(self.now)
        if self.random.random() < 0.02:
            for queue in self.flying:  # a server died with all that it had
                queue.clear()
            for end in self.ends:
                end.again()

    def finish(self) -> None:
        """Both ends end, and the servers are well from now on."""
        self.loss = self.double = self.reorder = 0.0
        for end in self.ends:
            end.finish()
        for _ in range(2000):
            self.now += 0.05
            for at, end in enumerate(self.ends):
                end.passed(self.waiting[at])
                self.waiting[at] = 0
                end.tick(self.now)
            self.send()
            while any(self.flying):
                self.arrive()
            if all(end.ended and not end.waits for end in self.ends):
                return
        raise AssertionError("it does not come to its end")


chance = st.sampled_from([0.0, 0.05, 0.3])


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), chance, chance, chance)
def test_all_bytes_come_once_and_in_order(
    seed: int, loss: float, double: float, reorder: float
) -> None:
    way = Way(seed, loss, double, reorder)
    for _ in range(60):
        way.step()
    way.finish()
    assert way.got == way.given[::-1]


def test_who_does_not_take_stops_the_sender() -> None:
    a, b = LinkEnd(0.0), LinkEnd(0.0)
    sent = 0
    for _ in range(100):
        if a.room:
            a.give(b"x" * min(a.room, CHUNK))
        for frame in list(a.frames(0.0)):
            sent += len(b.hear(frame, 0.0))
        for frame in list(b.frames(0.0)):
            a.hear(frame, 0.0)
    assert sent == WINDOW and a.room == 0
    assert not a._out  # it has arrived, so it need not be kept
    b.passed(WINDOW)
    for frame in list(b.frames(0.0)):
        a.hear(frame, 0.0)
    assert a.room == WINDOW


def test_silence_breaks_it_and_pings_keep_it() -> None:
    a, b = LinkEnd(0.0), LinkEnd(0.0)
    now = 0.0
    while now < 3 * SILENCE:
        now += 0.25
        for one, other in ((a, b), (b, a)):
            one.tick(now)
            for frame in list(one.frames(now)):
                other.hear(frame, now)
    with pytest.raises(BrokenLinkError, match="nothing was heard"):
        a.tick(now + SILENCE + 1)


def test_nothing_is_said_while_there_is_nothing_to_say() -> None:
    end = LinkEnd(0.0)
    end.tick(PING_EVERY / 2)
    assert list(end.frames(PING_EVERY / 2)) == []


@pytest.mark.parametrize(
    "frame",
    [
        Frame(NEWS, 0, 1, 0),  # it has what was not sent
        Frame(NEWS, 0, 0, 1),  # it took what it has not
        Frame(NEWS, 0, 1 << 63, 1 << 63),
        Frame(DATA, WINDOW, 0, 0, b"x"),  # more than may come
        Frame(BROKEN, 0, 0, 0, b"\xff"),
    ],
)
def test_what_makes_no_sense_breaks_it(frame: Frame) -> None:
    with pytest.raises(BrokenLinkError):
        LinkEnd(0.0).hear(frame, 0.0)


@pytest.mark.parametrize("text", [b"", b"\0" * 25, b"\x07" + b"\0" * 24, b"\1" * (26 + CHUNK)])
def test_what_is_no_frame_is_refused(text: bytes) -> None:
    with pytest.raises(BrokenLinkError):
        Frame.unpacked(text)


@given(st.binary(max_size=60), st.integers(0, 1 << 32))
def test_no_frame_harms_an_end(text: bytes, seed: int) -> None:
    end = LinkEnd(0.0)
    end.give(b"some")
    list(end.frames(0.0))
    rest = random.Random(seed)
    for _ in range(8):
        head = bytes([rest.randint(1, 6)]) + rest.randbytes(3).rjust(24, b"\0")
        try:
            end.hear(Frame.unpacked(head + text), 0.0)
        except BrokenLinkError:
            return
        list(end.frames(0.0))


def test_after_the_end_nothing_comes() -> None:
    end = LinkEnd(0.0)
    assert end.hear(Frame(DATA, 0, 0, 0, b"all"), 0.0) == b"all"
    end.hear(Frame(END, 3, 0, 0), 0.0)
    assert end.ended
    assert end.hear(Frame(DATA, 0, 0, 0, b"all"), 0.0) == b""  # sent twice
    with pytest.raises(BrokenLinkError):
        end.hear(Frame(DATA, 4, 0, 0, b"more"), 0.0)
    assert Frame.unpacked(broken("why")).data == b"why"
