"""The table of a page whose rows begin with a name and a version, one by one as they are tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

END = "<!-- The table ends. -->\n"


def whose(line: str, names: Iterable[str]) -> str:
    """Whom a line of the table is about, "" if nobody."""
    start = line.split(" | ", 1)[0].removeprefix("| ")
    return next((n for n in names if start in (n, f"{n} {start.rpartition(' ')[2]}")), "")


def write(page: Path, start: str, head: str, rows: Mapping[str, str], names: Sequence[str]) -> None:
    """Put these rows into the page, after ``start``; those of the other names stay."""
    before, _, rest = page.read_text().partition(start)
    table, _, after = rest.partition(END)
    known = {whose(line, names): line for line in table.splitlines()} | dict(rows)
    lines = "".join(known[name] + "\n" for name in names if name in known)
    page.write_text(f"{before}{start}\n{head}{lines}\n{END}{after}")
