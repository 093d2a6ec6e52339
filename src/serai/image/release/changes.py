"""The differences between two builds of an image, and CHANGES.md, which tells people of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from serai.image.release import tree

_DEPTH = 3  # parts of a folder's path that files are grouped by
OUTCOMES = {True: "passed", False: "failed", None: "not made"}
_NAMED = 20  # files of a group that are named
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A package and its versions before and after, '' where there is none."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class File:
    """A path that differs: ``how`` is added, removed or changed, ``what`` has changed of it."""

    path: str
    how: str
    what: str


@dataclass(frozen=True, slots=True)
class CheckChange:
    """A check of verify.json and whether it passed, None where it was not made."""

    name: str
    old: bool | None
    new: bool | None


@dataclass(frozen=True, slots=True)
class Side:
    """The figures of one of the two; ``passed`` of ``checks`` checks, 0 of 0 if none was made."""

    image: str
    version: str
    revision: str
    image_bytes: int
    files_bytes: int
    files: int
    packages: int
    boot_seconds: float | None
    passed: int
    checks: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs. ``privileged`` are programs with new rights, ``sockets`` and ``units`` enabled.

    They are what to look at first: new ways to become root, to be reached, and to run.
    """

    old: Side
    new: Side
    privileged: tuple[str, ...]
    sockets: tuple[str, ...]
    units: tuple[str, ...]
    added: tuple[Package, ...]
    removed: tuple[Package, ...]
    upgraded: tuple[Package, ...]
    downgraded: tuple[Package, ...]
    files: tuple[File, ...]
    checks: tuple[CheckChange, ...]


def markdown(changes: Changes) -> str:
    """CHANGES.md: the same changes are the same bytes."""
    old, new = changes.old, changes.new
    before = old.version if old.image == new.image else f"{old.image} {old.version}"
    blocks: list[Iterable[str]] = [
        [f"# {new.image} {new.version}", "", f"Compared with {before}."],
        ["## To look at first", "", *_first(changes)],
        ["## Figures", "", *_figures(old, new)],
        ["## Packages", "", *_packages(changes)],
        ["## Files", "", *_files(changes.files)],
        ["## Checks", "", *_checks(changes)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _first(changes: Changes) -> list[str]:
    lines = [
        f"- {words}: {_code(name)}"
        for words, names in (
            ("runs with more rights than who starts it", changes.privileged),
            ("listens", changes.sockets),
            ("is started", changes.units),
        )
        for name in names
    ]
    return lines or ["Nothing new has special rights, listens or is started."]


def _figures(old: Side, new: Side) -> Iterator[str]:
    yield "| | before | after | |"
    yield "|---|--:|--:|--:|"
    for what, before, after in (
        ("image, MiB", old.image_bytes / _MIB, new.image_bytes / _MIB),
        ("files, MiB", old.files_bytes / _MIB, new.files_bytes / _MIB),
        ("boot, s", old.boot_seconds, new.boot_seconds),
    ):
        if before is not None and after is not None:
            yield f"| {what} | {before:.1f} | {after:.1f} | {_percent(before, after)} |"
        elif before is not None or after is not None:
            yield f"| {what} | {_or_dash(before)} | {_or_dash(after)} | |"
    for name, count, then in (
        ("paths", old.files, new.files),
        ("packages", old.packages, new.packages),
    ):
        yield f"| {name} | {count} | {then} | {then - count:+d} |"
    yield f"| checks passed | {old.passed} of {old.checks} | {new.passed} of {new.checks} | |"


def _packages(changes: Changes) -> Iterator[str]:
    parts = (
        ("Added", changes.added),
        ("Removed", changes.removed),
        ("Upgraded", changes.upgraded),
        ("Downgraded", changes.downgraded),
    )
    if not any(packages for _, packages in parts):
        yield "The same packages."
        return
    yield "| | package | before | after |"
    yield "|---|---|---|---|"
    for words, packages in parts:
        for package in packages:
            yield f"| {words} | {package.name} | {package.old} | {package.new} |"


def _files(files: Sequence[File]) -> Iterator[str]:
    if not files:
        yield "The same files."
        return
    groups = {
        place: list(group)
        for place, group in itertools.groupby(sorted(files, key=_place), key=_folder)
    }
    yield "| folder | added | removed | changed |"
    yield "|---|--:|--:|--:|"
    for place, group in groups.items():
        count = Counter(file.how for file in group)
        yield f"| {_code(place)} | {count['added']} | {count['removed']} | {count['changed']} |"
    for place, group in groups.items():
        yield ""
        yield f"### {_code(place)}"
        yield ""
        for file in group[:_NAMED]:
            what = f": {_code(file.what)}" if file.what else ""
            yield f"- {file.how} {_code(f'/{file.path}')}{what}"
        if len(group) > _NAMED:
            yield f"- and {len(group) - _NAMED} more"


def _checks(changes: Changes) -> Iterator[str]:
    if not changes.old.checks or not changes.new.checks:
        yield "Not compared: one of the two was not verified."
    elif not changes.checks:
        yield "The same checks, with the same outcome."
    else:
        yield "| check | before | after |"
        yield "|---|---|---|"
        for check in changes.checks:
            yield f"| {check.name} | {OUTCOMES[check.old]} | {OUTCOMES[check.new]} |"


def _place(file: File) -> tuple[str, str]:
    return _folder(file), file.path


def _folder(file: File) -> str:
    return folder(file.path)


def folder(path: str) -> str:
    """The folder by which a file is counted: the first parts of its path."""
    return "/" + "/".join(path.split("/")[:-1][:_DEPTH])


def _code(text: str) -> str:
    """``text`` as it is, where Markdown would take it for something."""
    plain = tree.escaped(text).replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{plain}`"


def _percent(before: float, after: float) -> str:
    return f"{(after / before - 1) * 100:+.1f} %" if before else ""


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"  # noqa: RUF001 - an en dash
