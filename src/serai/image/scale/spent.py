"""What work costs the servers: their processor time, and the bytes on all wires."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serai.image.scale.cluster import Cluster

AT_ONCE = 64

Figures = dict[str, float]
Work = Callable[[int], Awaitable[object]]


@dataclass
class Spent:
    """Between two moments."""

    seconds: float = 0.0
    cpu: list[float] = field(default_factory=list)
    wire: int = 0

    def each(self, what: str, count: int) -> Figures:
        """The figures of so many of something."""
        return {
            f"{what}: CPU of all servers, µs": 1e6 * sum(self.cpu) / count,
            f"{what}: CPU of the busiest server, µs": 1e6 * max(self.cpu) / count,
            f"{what}: bytes on all wires": self.wire / count,
        }


@contextmanager
def spent(cluster: Cluster) -> Iterator[Spent]:
    """Measure a block."""
    result = Spent()
    cpu, wire = [each.cpu() for each in cluster.found], _wire()
    begun = time.monotonic()
    yield result
    result.seconds = time.monotonic() - begun
    result.wire = _wire() - wire
    result.cpu = [each.cpu() - was for each, was in zip(cluster.found, cpu, strict=True)]


def _wire() -> int:
    """Bytes that loopback has carried."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(each for each in lines if "lo:" in each).split(":")[1].split()[0])


async def repeated(work: Work, count: int, at_once: int = AT_ONCE) -> list[float]:
    """Do ``work`` so often, so much at once; the seconds that each took."""
    numbers = iter(range(count))
    took: list[float] = []

    async def do() -> None:
        for number in numbers:
            begun = time.monotonic()
            await work(number)
            took.append(time.monotonic() - begun)

    await asyncio.gather(*(do() for _ in range(at_once)))
    return took


async def costs(
    cluster: Cluster, what: str, work: Work, count: int, at_once: int = AT_ONCE
) -> Figures:
    """What each ``work`` costs when many are done at once, and how long one takes alone."""
    await repeated(work, min(count // 10 + 1, 200), at_once)  # the first ones cost more
    with spent(cluster) as found:
        await repeated(work, count, at_once)
    alone = await repeated(work, min(count, 100), 1)
    return found.each(what, count) | {f"{what}: alone, ms": 1e3 * statistics.median(alone)}
