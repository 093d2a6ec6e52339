"""What people read of a release: CHANGES.md and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from serai.image.release import changes, compare
from serai.image.release.changes import Changes
from serai.image.release.report import maps, report
from serai.image.release.tree import Entry


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
    version: str,
    status: str,
    entries: Iterable[Entry],
    bill: Mapping[str, Any],
    boot_chart: str,
    found: Changes | None,
    download: int,
) -> str:
    """report.html. ``status`` is dpkg's file, ``download`` the size of the qcow2 in bytes."""
    return report.render(
        report.Inputs(
            manifest=manifest,
            verify=verify,
            packages=report.packages(status),
            folders=maps.folders(entries),
            boot_chart=boot_chart,
            changes=asdict(found) if found else None,
            components=report.components(bill),
            version=version,
            download=download,
        )
    )
