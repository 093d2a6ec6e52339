"""What happens on a fleet of many VMs, played with a seed: placement, and the death of a server.

Nothing here reads a clock or a file. The same seed gives the same result on every host.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from serai.fleet.room import OFFERED
from serai.fleet.subjects import BEAT, DEAD, OFFERS

SEED = 58


@dataclass(frozen=True)
class Placement:
    """Sessions that come and go on equal VMs, and how each finds its VM."""

    vms: int
    sessions: int
    """On a VM, on average, when as many come as go."""
    choices: int = OFFERS
    """Offers that are compared: 1 is a random VM."""
    stale: float = 0.0
    """An offer tells the load of so many seconds ago, at most: 0 is that of the moment."""
    offered: float = OFFERED
    """Seconds for which a VM counts an offer as its part of a session."""
    making: float = 0.2
    """Seconds from a choice until the VM counts the new session."""
    burst: float = 0.0
    """The share of the sessions that all come within a second, at the end."""
    lifetime: float = 3600.0
    """Of a session, in seconds, on average."""


@dataclass(frozen=True)
class Balance:
    """How even the loads are: how far the fullest and the emptiest VM are from the mean, as a
    share of it, and the standard deviation.
    """

    fullest: float
    emptiest: float
    deviation: float


class _Vms:
    """How many sessions each VM has, and what its offers say about that."""

    def __init__(self, of: Placement, chance: random.Random) -> None:
        self.loads = [of.sessions - int(of.sessions * of.burst)] * of.vms
        self._of, self._chance = of, chance
        self._told = [float(each) for each in self.loads]
        self._until = [chance.uniform(0, of.stale) for _ in range(of.vms)]
        self._offers: list[deque[float]] = [deque() for _ in range(of.vms)]

    def change(self, vm: int, now: float, by: int) -> None:
        """A session came, or went."""
        if self._of.stale:
            self._say(vm, now)
        self.loads[vm] += by

    def chosen(self, now: float) -> int:
        """The least loaded of the VMs that make an offer."""
        asked = [self._chance.randrange(self._of.vms) for _ in range(self._of.choices)]
        said = [(self._offer(vm, now), vm) for vm in asked]
        return min(said)[1]

    def _offer(self, vm: int, now: float) -> float:
        load = self._say(vm, now) if self._of.stale else float(self.loads[vm])
        offers = self._offers[vm]
        while offers and offers[0] < now - self._of.offered:
            offers.popleft()
        load += len(offers) / self._of.choices
        if self._of.offered:
            offers.append(now)
        return load

    def _say(self, vm: int, now: float) -> float:
        """The load at the last time when it was looked at."""
        if now >= self._until[vm]:  # it has not changed since then, or this would have been called
            self._told[vm] = float(self.loads[vm])
            self._until[vm] += self._of.stale * (1 + (now - self._until[vm]) // self._of.stale)
        return self._told[vm]


def placed(of: Placement, seed: int = SEED) -> Balance:
    """Play until almost all that was there in the beginning has gone; how even it is then."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    vms = _Vms(of, chance)
    end = 3 * of.lifetime
    changes = [  # when, on which VM, one more or one less
        (chance.expovariate(1 / of.lifetime), vm, -1)
        for vm, count in enumerate(vms.loads)
        for _ in range(count)
    ]
    heapq.heapify(changes)
    steady = len(changes)
    for now in _arrivals(chance, steady / of.lifetime, end, of.vms * of.sessions - steady):
        while changes[0][0] <= now:
            when, vm, by = heapq.heappop(changes)
            vms.change(vm, when, by)
        chosen, counted = vms.chosen(now), now + of.making
        heapq.heappush(changes, (counted, chosen, 1))
        heapq.heappush(changes, (counted + chance.expovariate(1 / of.lifetime), chosen, -1))
    while changes[0][0] <= end + 1 + of.making:
        when, vm, by = heapq.heappop(changes)
        vms.change(vm, when, by)
    mean = statistics.fmean(vms.loads)
    return Balance(
        max(vms.loads) / mean - 1,
        1 - min(vms.loads) / mean,
        statistics.pstdev(vms.loads) / mean,
    )


def _arrivals(chance: random.Random, rate: float, end: float, burst: int) -> Iterator[float]:
    now = chance.expovariate(rate)
    while now < end:
        yield now
        now += chance.expovariate(rate)
    yield from sorted(chance.uniform(end, end + 1) for _ in range(burst))


@dataclass(frozen=True)
class Death:
    """A NATS server dies; its VMs connect to the others, and all go on with their heartbeats."""

    vms: int
    """Of the whole fleet; a third of them were at the dead server."""
    connect: float
    """Seconds of the servers' processor time that a connection costs."""
    processors: int = 4
    """Of the two servers that are left, together."""
    leaderless: float = 9.0
    """Seconds without a leader of the bucket, in which no heartbeat is kept."""
    spread: float = 1.0
    """Seconds over which the VMs begin to connect."""
    patience: float = 20.0
    """Seconds after which a connection that is not ready is given up."""
    wait: tuple[float, float] = (1.0, 2.0)
    """Seconds between two tries: at random between these."""
    beat: float = BEAT
    answer: float = 2.0
    """Seconds after which a VM takes a heartbeat as not kept."""
    again: float = 1.0
    """Seconds until it is sent again."""
    dead: float = DEAD
    """Seconds after which a VM without a heartbeat is gone."""


@dataclass(frozen=True)
class Aftermath:
    """What the death did."""

    connected: float
    """Seconds until all VMs were connected again; infinite if it was not to be."""
    tries: float
    """Connections that a VM began until it had one."""
    oldest: float
    """Seconds that a heartbeat was old at most before the next one."""
    gone: float
    """The share of all VMs that were well and counted as gone."""


def died(of: Death) -> Aftermath:
    """Play a server's death."""
    chance = random.Random(SEED)  # noqa: S311  # no secret
    back, tries = _connected_again(of, chance)
    ages = [
        _oldest(of, back[number] if number < len(back) else 0.0, chance) for number in range(of.vms)
    ]
    gone = sum(age > of.dead for age in ages) / len(ages)
    return Aftermath(max(back), tries / len(back), max(ages), gone)


def _oldest(of: Death, connected: float, chance: random.Random) -> float:
    """How old a VM's heartbeat was when the next one was kept. The death is at 0."""
    last = -chance.uniform(0, of.beat)
    if connected == math.inf:
        return math.inf
    now = last + of.beat
    while now < max(connected, of.leaderless):
        now += of.answer + of.again
    return now - last


def _connected_again(of: Death, chance: random.Random) -> tuple[list[float], int]:
    """When each VM of the dead server is connected, and how many connections were begun.

    The servers work on all of them at once, a little on each. With too many of them none is ready
    in time, and what was done for them is lost.
    """
    back = [math.inf] * (of.vms // 3)
    events = [(chance.uniform(0, of.spread), _BEGIN, vm, 0) for vm in range(len(back))]
    heapq.heapify(events)
    work: list[tuple[float, int, int]] = []  # by how much each has been given when it is ready
    active: dict[int, int] = {}  # each VM's try
    given = now = 0.0
    tries = 0
    while (events or active) and now < _MOST:
        while work and active.get(work[0][1]) != work[0][2]:
            heapq.heappop(work)  # it was given up
        rate = min(1.0, of.processors / len(active)) if active else 0.0
        ready = now + (work[0][0] - given) / rate if work else math.inf
        if not events or ready <= events[0][0]:
            given, vm, number = heapq.heappop(work)
            back[vm] = now = ready
            del active[vm]
            continue
        when, what, vm, number = heapq.heappop(events)
        given, now = given + rate * (when - now), when
        if what == _BEGIN:
            tries += 1
            active[vm] = number
            heapq.heappush(work, (given + of.connect, vm, number))
            heapq.heappush(events, (now + of.patience, _GIVE_UP, vm, number))
        elif active.get(vm) == number:
            del active[vm]
            heapq.heappush(events, (now + chance.uniform(*of.wait), _BEGIN, vm, number + 1))
    return back, tries


_BEGIN, _GIVE_UP = 0, 1
_MOST = 120.0  # seconds that are played
