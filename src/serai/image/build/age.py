"""How old the base is that a stage stands on, and whether the stage may still be used.

A cached base is what the package mirror had on the day it was made. The record of each stage says
when that was. A layer counts for the very base that it was built on, and for no other one with the
same key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from serai.image.errors import BuildError
from serai.image.settings import Settings

BASE_MADE = "base_made"
"""The key of that time in a stage's record."""

ISO = "%Y-%m-%dT%H:%M:%SZ"

_YEARS = 10_000  # days: more is a slip of the finger


@dataclass(frozen=True)
class Limit:
    """Bases made before ``since`` count as not there, because of ``why``; None is no limit.

    With ``fresh`` nothing counts that was made before, wherever it lies.
    """

    since: datetime | None = None
    why: str = ""
    fresh: bool = False

    def fault(self, record: Path, previous: Path | None) -> str:
        """Why the stage of the file ``record`` cannot be used; '' if it can.

        ``previous`` is the record of the stage that it is to stand on.
        """
        made = base_made(record)
        if self.since is not None and made < self.since:
            return f"its base is {ago(made)} old, {self.why}"
        if previous is not None:
            own, below = (_read(path).get(BASE_MADE) for path in (record, previous))
            if own and below and own != below:
                return "its base was made again since"
        return ""


def limit(settings: Settings, *, fresh: bool = False) -> Limit:
    """The limit of a build that begins now. Raises BuildError if the setting is not as it must be.

    ``fresh`` is --fresh, which counts nothing that was made before.
    """
    now = datetime.now(timezone.utc).replace(microsecond=0)
    text, called = settings.cache_max_age, settings.called("cache_max_age")
    if text not in ("", "none") and not (text.isdecimal() and 0 < int(text) < _YEARS):
        raise BuildError(f"{called} is {text!r}", hint="a number of days from 1 on, or none")
    if fresh:
        return Limit(now, "and --fresh wants a new one", fresh=True)
    if text in ("", "none"):
        return Limit()
    days = f"{text} day{'s' * (int(text) != 1)}"
    return Limit(now - timedelta(days=int(text)), f"older than {days} ({called})")


def base_made(record: Path) -> datetime:
    """When the base was made of the stage that has this record."""
    text = _read(record).get(BASE_MADE)
    if text is None:  # records did not always have it
        return datetime.fromtimestamp(record.stat().st_mtime, timezone.utc)
    return datetime.strptime(str(text), ISO).replace(tzinfo=timezone.utc)


def ago(made: datetime) -> str:
    """How long ago that was, for people: in hours, and after two days in days."""
    hours = max(0, int((datetime.now(timezone.utc) - made) / timedelta(hours=1)))
    count, unit = (hours, "hour") if hours < 48 else (hours // 24, "day")  # noqa: PLR2004
    return f"{count} {unit}{'s' * (count != 1)}"


def _read(record: Path) -> Mapping[str, Any]:
    """A stage's record, or the last one in a build's manifest."""
    loaded: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return loaded["stages"][-1] if "stages" in loaded else loaded
