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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from serai.image import console, offline
from serai.image.release.diff import OUTCOMES, Changes
from serai.image.release.report import chart, treemap
from serai.image.release.report.treemap import Rect
from serai.image.verify import boot_chart

_DATA = Path(__file__).parent / "data"
_WIDE, _NARROW = Rect(0, 0, 200, 100), Rect(0, 0, 100, 120)  # the maps' proportions
_LONGEST = 10  # tasks
_SLOWEST = 15  # units
_FOLDERS = 40  # the largest ones


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


@dataclass(frozen=True)
class Inputs:
    """All that a report tells.

    ``manifest`` and ``verify`` are manifest.json and verify.json ({} for an image that was not
    verified), ``folders`` is ``treemap.folders()``, ``boot_chart`` what systemd-analyze drew ('' if
    nothing), ``changes`` what differs from the previous release (None without one),
    ``version`` the release's own ('' if it has none but the build's), ``download`` the bytes of the
    image's file (0 if that is not to be told).
    """

    manifest: Mapping[str, Any]
    verify: Mapping[str, Any]
    packages: Sequence[Package]
    folders: Mapping[str, int]
    boot_chart: str
    changes: Changes | None
    components: Sequence[Component]
    version: str = ""
    download: int = 0


def packages(status: str) -> list[Package]:
    """The installed packages that dpkg's status file tells of, by name."""
    sizes = offline.installed_sizes(status)
    lines = (line.split() for line in offline.packages(status))
    return [Package(name, version, arch, sizes[name, arch]) for name, version, arch in lines]


def components(bill: Mapping[str, Any]) -> list[Component]:
    """The components of a CycloneDX bill of materials (ECMA-424), read from its JSON."""
    return [
        Component(
            name="/".join(filter(None, (part.get("group"), part["name"]))),
            version=part.get("version", ""),
            type=_kind(part),
            licence=", ".join(_licence(choice) for choice in part.get("licenses", ())),
            purl=part.get("purl", ""),
        )
        for part in bill.get("components", ())
    ]


def differences(changes: Changes) -> dict[str, list[tuple[str, str, str]]]:
    """The figures and the checks that differ, by the caption of their table: name, before, now.

    A figure that is not known on both sides is left out.
    """
    old, new = changes.old, changes.new
    figures: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("Image", old.image_bytes, new.image_bytes, console.size),
        ("Files, in all", old.files_bytes, new.files_bytes, console.size),
        ("Files and directories", old.files, new.files, str),
        ("Packages", old.packages, new.packages, str),
        ("Boot, power-on to ssh", old.boot_seconds, new.boot_seconds, console.seconds),
        ("Checks passed", old.passed, new.passed, str),
    )
    return {
        "Figures": [
            (name, words(before), words(after))
            for name, before, after, words in figures
            if before is not None and after is not None and before != after
        ],
        "Checks with another result": [
            (check.name, OUTCOMES[check.old], OUTCOMES[check.new]) for check in changes.checks
        ],
    }


def render(inputs: Inputs) -> str:
    """The whole page. The same inputs give the same text, in UTF-8's characters only."""
    sizes: Counter[str] = Counter()  # a name may be there for two architectures
    for package in inputs.packages:
        sizes[package.name] += package.size
    drawn = {"packages": treemap.of_packages(sizes), "folders": treemap.of_folders(inputs.folders)}
    style = _asset("report.css") + "".join(
        treemap.stylesheet(name, _tiles(node, _WIDE), _tiles(node, _NARROW))
        for name, node in drawn.items()
    )
    script = _asset("report.js")
    built = chart.stages(inputs.manifest.get("stages", ()))
    booted = boot_chart.boot(inputs.boot_chart)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 - ours and numbers
            script=Markup(script),  # noqa: S704 - ours
            version=inputs.version or inputs.manifest["version"],
            manifest=inputs.manifest,
            definition=inputs.manifest.get("definition", {}),
            verify=inputs.verify,
            facts=inputs.verify.get("facts", {}),
            checks=sorted(inputs.verify.get("checks", ()), key=lambda check: bool(check["ok"])),
            download=inputs.download,
            packages=sorted(inputs.packages, key=lambda package: (-package.size, package.name)),
            folders=_largest_folders(inputs.folders),
            maps={name: _tiles(node, _WIDE) for name, node in drawn.items()},
            stages=built,
            longest=chart.longest(built, _LONGEST),
            boot=booted,
            slowest=chart.slowest(booted, _SLOWEST),
            boot_chart=data_url(inputs.boot_chart),
            changes=inputs.changes,
            differences=differences(inputs.changes) if inputs.changes else {},
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
    return "data:image/svg+xml;base64," + base64.b64encode(console.clean(svg).encode()).decode()


def _cleaned(value: object) -> object:
    return type(value)(console.clean(value)) if isinstance(value, str) else value


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DATA),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": console.size, "duration": console.seconds}
    return environment


def _asset(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _kind(part: Mapping[str, Any]) -> str:
    """What a component comes as, for people: deb, pypi, npm; else CycloneDX's own type."""
    found = re.match(r"pkg:([a-z0-9.+-]+)/", part.get("purl", ""))
    return found[1] if found else str(part["type"])


def _licence(choice: Mapping[str, Any]) -> str:
    named = choice.get("license", {})
    return str(choice.get("expression") or named.get("id") or named.get("name", ""))


def _tiles(node: treemap.Node, frame: Rect) -> list[treemap.Placed]:
    return treemap.stretch(treemap.place(node, frame), frame)


def _largest_folders(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest folders, as paths from /."""
    found = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_FOLDERS]
    return [("/" if path == treemap.ROOT else f"/{path}", number) for path, number in found]
