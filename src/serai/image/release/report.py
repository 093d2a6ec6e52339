"""report.html: what an image is, holds and passed, in one file that asks nothing of anybody.

Everything in it that comes from an image or its build is untrusted text. Jinja2 escapes it for HTML
and attributes; it never gets into the style sheet or the script; the boot chart is an image, in
which no script runs. A content security policy (https://www.w3.org/TR/CSP3/) then allows just the
one style sheet and the one script, by their digests, and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import jinja2
from markupsafe import Markup

from serai.image.release import chart, maps
from serai.image.release.treemap import Rect

_DATA = Path(__file__).parents[1] / "data" / "report"
_WIDE, _NARROW = Rect(0, 0, 200, 100), Rect(0, 0, 100, 120)  # the maps' proportions
_LONGEST = 10  # tasks
_SLOWEST = 15  # units
# What no text holds or what would show it in another order than it is read: control characters,
# bytes that are no UTF-8 (PEP 383), and Unicode's marks of direction (UAX 9).
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Package:
    """An installed package of the distribution; ``size`` is in bytes."""

    name: str
    version: str
    architecture: str
    size: int


@dataclass(frozen=True)
class Component:
    """A line of the SBOM; ``licence`` and ``purl`` are '' where they are not known."""

    name: str
    version: str
    type: str
    licence: str
    purl: str


class PackageChange(TypedDict):
    """``change`` is added, removed, upgraded or downgraded; a version that is not there is ''."""

    name: str
    change: str
    old: str
    new: str


class FolderChange(TypedDict):
    """How many files of a folder were added, removed and changed."""

    folder: str
    added: int
    removed: int
    changed: int


class Difference(TypedDict):
    """A figure or a check that is not what it was, both in words."""

    name: str
    old: str
    new: str


class Changes(TypedDict):
    """What differs from the release ``previous``.

    ``notable`` are sentences about what to look at first: new setuid files and listening units.
    """

    previous: str
    notable: Sequence[str]
    figures: Sequence[Difference]
    checks: Sequence[Difference]
    packages: Sequence[PackageChange]
    folders: Sequence[FolderChange]


@dataclass(frozen=True)
class Inputs:
    """All that a report tells.

    ``manifest`` and ``verify`` are manifest.json and verify.json ({} for an image that was not
    verified), ``folders`` is ``maps.folders()``, ``boot_chart`` what systemd-analyze drew ('' if
    nothing), ``changes`` None without a previous release, ``download`` the bytes of the image's
    file (0 if that is not to be told).
    """

    manifest: Mapping[str, Any]
    verify: Mapping[str, Any]
    packages: Sequence[Package]
    folders: Mapping[str, int]
    boot_chart: str
    changes: Changes | None
    components: Sequence[Component]
    download: int = 0


def render(inputs: Inputs) -> str:
    """The whole page. The same inputs give the same text, in UTF-8's characters only."""
    sizes: Counter[str] = Counter()  # a name may be there for two architectures
    for package in inputs.packages:
        sizes[package.name] += package.size
    drawn = {"packages": maps.of_packages(sizes), "folders": maps.of_folders(inputs.folders)}
    style = _asset("report.css") + "".join(
        maps.stylesheet(name, _placed(node, _WIDE), _placed(node, _NARROW))
        for name, node in drawn.items()
    )
    script = _asset("report.js")
    built = chart.stages(inputs.manifest.get("stages", ()))
    booted = chart.boot(inputs.boot_chart)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 - ours and numbers
            script=Markup(script),  # noqa: S704 - ours
            manifest=inputs.manifest,
            definition=inputs.manifest.get("definition", {}),
            verify=inputs.verify,
            facts=inputs.verify.get("facts", {}),
            checks=sorted(inputs.verify.get("checks", ()), key=lambda check: bool(check["ok"])),
            download=inputs.download,
            packages=sorted(inputs.packages, key=lambda package: (-package.size, package.name)),
            folders=_largest_folders(inputs.folders),
            maps={name: _placed(node, _WIDE) for name, node in drawn.items()},
            stages=built,
            longest=chart.longest(built, _LONGEST),
            boot=booted,
            slowest=chart.slowest(booted, _SLOWEST),
            boot_chart=data_url(inputs.boot_chart),
            changes=inputs.changes,
            components=inputs.components,
        )
    )


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style sheet and this script, and no more."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def data_url(svg: str) -> str:
    """An SVG image as the address of an <img>, where browsers run and fetch nothing; or ''."""
    if "<svg" not in svg:
        return ""
    return "data:image/svg+xml;base64," + base64.b64encode(clean(svg).encode()).decode()


def clean(text: str) -> str:
    """``text`` with a visible mark for each character that is none or would mislead."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def size(count: float) -> str:
    """Bytes for people: '0 B', '18.0 KiB', '1.2 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - binary prefixes
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people: '0.02 s', '4.7 s', '12 min 37 s', '1 h 05 min'."""
    if seconds < 0.95:  # noqa: PLR2004 - one digit more for what is short
        return f"{seconds:.2f} s"
    if round(seconds, 1) < 60:  # noqa: PLR2004 - seconds
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - minutes
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DATA),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=lambda value: type(value)(clean(value)) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "duration": duration}
    return environment


def _asset(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _placed(node: maps.Node, frame: Rect) -> list[maps.Placed]:
    return maps.stretched(maps.place(node, frame), frame)


def _largest_folders(sizes: Mapping[str, int], count: int = 40) -> list[tuple[str, int]]:
    """The largest folders, as paths from /."""
    found = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [("/" if path == maps.ROOT else f"/{path}", number) for path, number in found]
