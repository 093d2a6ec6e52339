"""What a verification found, for people and in verify.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from serai.common.checks import Result, summary
from serai.image import cache, console
from serai.image.verify.facts import Digests, Evidence


@dataclass(frozen=True)
class Report:
    """What verify.json holds. ``boot_seconds`` is from power-on to ssh, None without a boot.

    ``sha256`` is that of the disk that was verified, '' if it changed meanwhile: a release is made
    of these very bytes.
    """

    image: str
    version: str
    boot_seconds: float | None
    facts: dict[str, object]
    checks: tuple[Result, ...]
    sha256: str = ""

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(result.ok for result in self.checks)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return len(self.checks) - self.passed

    @property
    def ok(self) -> bool:
        """Whether the image is good. Nothing checked is nothing proved."""
        return bool(self.checks) and not self.failed


def report_of(evidence: Evidence, version: str, results: Sequence[Result]) -> Report:
    """The report of what was judged, with the facts that people ask for."""
    first = evidence.first
    told: dict[str, object] = {}
    if not isinstance(first, str):
        system = first.facts.system
        told = {
            "packages": system.packages,
            "root_bytes": system.root_bytes,
            "root_used": system.root_used,
            "kernel": system.kernel,
            "reboot_seconds": None if isinstance(evidence.second, str) else evidence.second.seconds,
        }
    seconds = None if isinstance(first, str) else first.seconds
    return Report(
        evidence.image.name, version, seconds, told, tuple(results), _verified(evidence.digests)
    )


def _verified(found: Digests | str) -> str:
    return "" if isinstance(found, str) or found.before != found.after else found.after


def content(report: Report) -> dict[str, object]:
    """What verify.json holds."""
    return {
        "image": report.image,
        "version": report.version,
        "sha256": report.sha256,
        "boot_seconds": report.boot_seconds,
        "facts": report.facts,
        **summary(report.checks, digits=1),
    }


def write(report: Report, target: Path) -> None:
    """Write verify.json, whole or not at all."""
    cache.write(target, json.dumps(content(report), indent=2) + "\n")


def show(report: Report) -> None:
    """Print the checks as a table, and the sum."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "found", "s"):
        table.add_column(title, justify="right" if title == "s" else "left", overflow="fold")
    for result in report.checks:
        mark = Text("✓", "green") if result.ok else Text("✗", "bold red")
        table.add_row(
            mark,
            Text(console.clean(result.check.name)),
            Text(console.clean(result.detail)),
            f"{result.seconds:.1f}",
        )
    console.out.print(table, soft_wrap=False)
    if not report.checks:
        console.fail("nothing was checked")
    console.say(f"{report.image} {report.version}: {report.passed} passed, {report.failed} failed")
