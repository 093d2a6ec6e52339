"""What people read of a release: CHANGES.md and report.html."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serai.image import offline
from serai.image.release import changes, compare, maps, report
from serai.image.release.changes import Changes
from serai.image.release.sbom import Part
from serai.image.release.tree import Entry

_DEPTH = 2  # parts of a path that files are counted by


def differences(previous: Path, folder: Path, version: str, work: Path) -> Changes:
    """What is otherwise in ``folder``, to be called ``version``, than in the release ``previous``.

    Raises BuildError where ``previous`` is no release.
    """
    old = replace(compare.read(previous, work), version=previous.resolve().name)
    return compare.compare(old, replace(compare.read(folder, work), version=version))


def changelog(image: str, version: str, found: Changes | None) -> str:
    """CHANGES.md."""
    if found is not None:
        return changes.markdown(found)
    return f"# {image} {version}\n\nNothing was named that it could be compared with.\n"


def page(
    manifest: Mapping[str, Any],
    verify: Mapping[str, Any],
    *,
    status: str,
    entries: Iterable[Entry],
    parts: Iterable[Part],
    boot_chart: str,
    found: Changes | None,
    download: int,
) -> str:
    """report.html. ``status`` is dpkg's file, ``download`` the size of the qcow2 in bytes."""
    sizes = offline.installed_sizes(status)
    lines = [line.split() for line in offline.packages(status)]
    return report.render(
        report.Inputs(
            manifest=manifest,
            verify=verify,
            packages=[
                report.Package(name, version, arch, sizes.get((name, arch), 0))
                for name, version, arch in lines
            ],
            folders=maps.folders(entries),
            boot_chart=boot_chart,
            changes=_told(found) if found else None,
            components=[_component(part) for part in parts],
            download=download,
        )
    )


def _component(part: Part) -> report.Component:
    purl = part.purl
    name = f"{purl.namespace}/{purl.name}" if purl.type == "npm" and purl.namespace else purl.name
    licences = ", ".join(sorted(part.licences))
    return report.Component(name, purl.version or "", purl.type, licences, purl.to_string())


def _told(found: Changes) -> report.Changes:
    old, new = found.old, found.new
    figures = [
        ("image, MiB", f"{old.image_bytes / 2**20:.1f}", f"{new.image_bytes / 2**20:.1f}"),
        ("files, MiB", f"{old.files_bytes / 2**20:.1f}", f"{new.files_bytes / 2**20:.1f}"),
        ("packages", str(old.packages), str(new.packages)),
        ("paths", str(old.files), str(new.files)),
        ("boot, s", _number(old.boot_seconds), _number(new.boot_seconds)),
        ("checks passed", f"{old.passed} of {old.checks}", f"{new.passed} of {new.checks}"),
    ]
    words = {True: "passed", False: "failed", None: "not made"}
    return {
        "previous": old.version,
        "notable": [
            *(f"{name} runs with more rights than who starts it" for name in found.privileged),
            *(f"{name} listens" for name in found.sockets),
            *(f"{name} is started" for name in found.units),
        ],
        "figures": [{"name": name, "old": one, "new": two} for name, one, two in figures],
        "checks": [
            {"name": check.name, "old": words[check.old], "new": words[check.new]}
            for check in found.checks
        ],
        "packages": [
            {"name": package.name, "change": change, "old": package.old, "new": package.new}
            for change, packages in (
                ("added", found.added),
                ("removed", found.removed),
                ("upgraded", found.upgraded),
                ("downgraded", found.downgraded),
            )
            for package in packages
        ],
        "folders": _folders(found.files),
    }


def _folders(files: Sequence[changes.File]) -> list[report.FolderChange]:
    counts = Counter(("/".join(file.path.split("/")[:_DEPTH]), file.how) for file in files)
    return [
        {
            "folder": f"/{folder}",
            "added": counts[folder, "added"],
            "removed": counts[folder, "removed"],
            "changed": counts[folder, "changed"],
        }
        for folder in sorted({folder for folder, _ in counts})
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
