"""What differs from the previous release, in the rows and sentences that a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serai.image.release.changes import OUTCOMES, folder
from serai.image.words import duration, size

_NOTABLE = {
    "privileged": "has more rights than who starts it",
    "sockets": "listens",
    "units": "is started",
}


@dataclass(frozen=True)
class Row:
    """Something and what it was and is, in words; '' where it is not there."""

    name: str
    old: str
    new: str
    change: str = ""


@dataclass(frozen=True)
class Folder:
    """How many files of a folder were added, removed and changed."""

    path: str
    added: int
    removed: int
    changed: int


@dataclass(frozen=True)
class Differences:
    """``notable`` are sentences, about what to look at first."""

    previous: str
    notable: tuple[str, ...]
    figures: tuple[Row, ...]
    checks: tuple[Row, ...]
    packages: tuple[Row, ...]
    folders: tuple[Folder, ...]


def of(changes: Mapping[str, Any]) -> Differences:
    """The differences that a comparison found, given as ``compare --json`` prints them."""
    old, new = changes["old"], changes["new"]
    return Differences(
        previous=f"{old['image']} {old['version']}",
        notable=tuple(
            f"{name} {words}" for key, words in _NOTABLE.items() for name in changes[key]
        ),
        figures=tuple(_figures(old, new)),
        checks=tuple(
            Row(check["name"], OUTCOMES[check["old"]], OUTCOMES[check["new"]])
            for check in changes["checks"]
        ),
        packages=tuple(
            Row(package["name"], package["old"], package["new"], change)
            for change in ("added", "removed", "upgraded", "downgraded")
            for package in changes[change]
        ),
        folders=tuple(_folders(changes["files"])),
    )


def _figures(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Row]:
    """The figures that are known on both sides and are not the same."""
    for name, key, words in (
        ("Image", "image_bytes", size),
        ("Files, in all", "files_bytes", size),
        ("Files and folders", "files", str),
        ("Packages", "packages", str),
        ("Boot, power-on to ssh", "boot_seconds", duration),
        ("Checks passed", "passed", str),
    ):
        before, after = old[key], new[key]
        if before is not None and after is not None and before != after:
            yield Row(name, words(before), words(after))


def _folders(files: Sequence[Mapping[str, Any]]) -> Iterator[Folder]:
    counts = Counter((folder(file["path"]), file["how"]) for file in files)
    for path in sorted({path for path, _ in counts}):
        yield Folder(path, *(counts[path, how] for how in ("added", "removed", "changed")))
