"""What happened when: the stages and tasks of a build, and the slowest units of a boot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serai.image.verify.boot_chart import Bar, Boot


@dataclass(frozen=True)
class Stage:
    """A stage of a build; ``outside`` is the part of its seconds in which no task ran."""

    bar: Bar
    key: str
    tasks: tuple[Bar, ...]
    outside: float


def stages(records: Iterable[Mapping[str, Any]]) -> list[Stage]:
    """The stages of a manifest.json, one after another, and in each its tasks."""
    found: list[Stage] = []
    for record, start, seconds, total in _in_a_row(records):
        bar = Bar(str(record["stage"]), start, seconds, total)
        tasks = _tasks(record["tasks"])
        outside = max(seconds - sum(task.seconds for task in tasks), 0.0)
        found.append(Stage(bar, str(record["key"]), tasks, outside))
    return found


def longest(found: Iterable[Stage], count: int) -> list[Bar]:
    """The ``count`` tasks of all stages that took the most time, the longest first."""
    tasks = [task for stage in found for task in stage.tasks]
    return sorted(tasks, key=lambda task: -task.seconds)[:count]


def slowest(found: Boot, count: int) -> list[Bar]:
    """The ``count`` units that took the most time to come up, in the order of their start."""
    slow = sorted(found.units, key=lambda unit: -unit.seconds)[:count]
    return sorted(slow, key=lambda unit: (unit.start, unit.name))


def _tasks(records: Iterable[Mapping[str, Any]]) -> tuple[Bar, ...]:
    bars: list[Bar] = []
    for record, start, seconds, total in _in_a_row(records):
        name, role, status = str(record["name"]), str(record["role"]), str(record["status"])
        bars.append(Bar(name, start, seconds, total, group=role, status=status))
    return tuple(bars)


def _in_a_row(
    records: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], float, float, float]]:
    """Each record with when it began, how long it took, and how long all of them did."""
    known = list(records)
    total = sum(float(record["seconds"]) for record in known)
    start = 0.0
    for record in known:
        seconds = float(record["seconds"])
        yield record, start, seconds, total
        start += seconds
