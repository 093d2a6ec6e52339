"""CHANGES.md: what differs between two builds of an image, for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from serai.image import console
from serai.image.release import diff, tree
from serai.image.release.diff import OUTCOMES, Changes, Directory, Side
from serai.image.settings import Settings

_NAMED = 20  # files of a directory that are named
_MIB = 1 << 20


def markdown(changes: Changes) -> str:
    """CHANGES.md: the same changes are the same bytes."""
    old, new = changes.old, changes.new
    before = old.version if old.image == new.image else f"{old.image} {old.version}"
    blocks: list[Iterable[str]] = [
        [f"# {new.image} {new.version}", "", f"Compared with {before}."],
        ["## To look at first", "", *_first(changes)],
        ["## Figures", "", *_figures(old, new)],
        ["## Packages", "", *_packages(changes)],
        ["## Files", "", *_files(changes.directories)],
        ["## Checks", "", *_checks(changes)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def first_release(image: str, version: str) -> str:
    """CHANGES.md of a release that no previous one was named for."""
    return f"# {image} {version}\n\nNothing was named that it could be compared with.\n"


def show(settings: Settings, old: Path, new: Path, *, as_json: bool) -> None:
    """Print what differs between two directories; raises BuildError where one is not a build's."""
    changes = diff.compare(diff.read(old, settings.cache), diff.read(new, settings.cache))
    text = json.dumps(asdict(changes), indent=2) + "\n" if as_json else markdown(changes)
    print(console.clean(text), end="")


def _first(changes: Changes) -> list[str]:
    lines = [f"- {words}: {_code(name)}" for name, words in changes.notable]
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
    if not changes.packages:
        yield "The same packages."
        return
    yield "| | package | before | after |"
    yield "|---|---|---|---|"
    for kind, package in changes.packages:
        yield f"| {kind.capitalize()} | {package.name} | {package.old} | {package.new} |"


def _files(directories: Sequence[Directory]) -> Iterator[str]:
    if not directories:
        yield "The same files."
        return
    yield "| directory | added | removed | changed |"
    yield "|---|--:|--:|--:|"
    for group in directories:
        counts = " | ".join(str(group.count(how)) for how in ("added", "removed", "changed"))
        yield f"| {_code(group.path)} | {counts} |"
    for group in directories:
        yield ""
        yield f"### {_code(group.path)}"
        yield ""
        for file in group.files[:_NAMED]:
            what = f": {_code(file.what)}" if file.what else ""
            yield f"- {file.how} {_code(f'/{file.path}')}{what}"
        if len(group.files) > _NAMED:
            yield f"- and {len(group.files) - _NAMED} more"


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


def _code(text: str) -> str:
    """``text`` as it is, where Markdown would take it for something."""
    plain = tree.escape(text).replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{plain}`"


def _percent(before: float, after: float) -> str:
    return f"{(after / before - 1) * 100:+.1f} %" if before else ""


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"  # noqa: RUF001 - an en dash
