"""What the oldest releases of programs know: the lists in tests/support/known."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parent / "known"


def read(name: str) -> dict[str, set[str]]:
    """The words of each section of a list; those before the first section are in ``""``."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in (HOME / f"{name}.txt").read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif line and not line.startswith("#"):
            found.setdefault(section, set()).update(line.split())
    return found
