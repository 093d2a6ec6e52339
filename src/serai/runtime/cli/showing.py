"""How the commands of ``serai`` show times and tables to a person."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serai.common.printing import say


def when(seconds: float) -> str:
    """A time of the clock, as this host's people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns; the last column may be of any width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        say("  ".join([*cells, row[-1]]).rstrip())
