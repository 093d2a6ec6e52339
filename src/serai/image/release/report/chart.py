"""What happened when: the stages and tasks of a build, and the units of a boot.

The boot is read out of what ``systemd-analyze plot`` draws (systemd-analyze(1)): 100 pixels are a
second there, so that an emulated boot's chart is several metres wide.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_PIXELS = 100.0  # for a second, in systemd-analyze's drawing
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BOX = re.compile(rf'<rect class="box"[^>]* width="{_NUMBER}"')
_UNIT = re.compile(
    rf'<rect class="activating" x="{_NUMBER}"[^>]* width="{_NUMBER}"[^>]*/>\s*'
    r'(?:<rect class="(?:active|deactivating)"[^>]*/>\s*)*<text[^>]*>([^<]*)</text>'
)
_SUMMARY = re.compile(r"<text[^>]*>\s*(Startup finished in [^<]*)</text>")


@dataclass(frozen=True)
class Bar:
    """Something that took ``seconds``, from ``start`` seconds on, in a whole of ``total``."""

    name: str
    start: float
    seconds: float
    total: float
    group: str = ""
    status: str = ""

    @property
    def left(self) -> float:
        """Where it begins, in per cent of the whole."""
        return self._share(self.start)

    @property
    def width(self) -> float:
        """How much of the whole it takes, in per cent; something short can still be seen."""
        return max(self._share(self.seconds), 0.3)

    def _share(self, seconds: float) -> float:
        return 100 * min(max(seconds / self.total, 0.0), 1.0) if self.total > 0 else 0.0


@dataclass(frozen=True)
class Stage:
    """A stage of a build; ``outside`` is the part of its seconds in which no task ran."""

    bar: Bar
    key: str
    tasks: tuple[Bar, ...]
    outside: float


@dataclass(frozen=True)
class Boot:
    """``summary`` is systemd's own sentence, ``units`` those that took time, by their start."""

    summary: str
    units: tuple[Bar, ...]


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


def boot(svg: str) -> Boot:
    """What systemd-analyze's drawing says; nothing where it is none."""
    box = _BOX.search(svg)
    total = float(box[1]) / _PIXELS if box else 0.0
    units = []
    for x, width, label in _UNIT.findall(svg):
        seconds = float(width) / _PIXELS
        name = re.sub(r" \([^()]*\)$", "", html.unescape(label).strip())
        if seconds > 0 and "." in name:  # the drawing's legend has bars, too, but no unit's name
            units.append(Bar(name, float(x) / _PIXELS, seconds, total))
    summary = _SUMMARY.search(svg)
    lines = html.unescape(summary[1]).splitlines() if summary else []
    sentence = "; ".join(line.strip() for line in lines if line.strip())
    return Boot(sentence, tuple(sorted(units, key=lambda unit: (unit.start, unit.name))))


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
