"""A release: a folder with a verified image, all that belongs to it, and one signature over it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serai.image import cache, console, digest, layout, offline, sign
from serai.image.build import builds
from serai.image.definition import pins
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.parallel import in_parallel
from serai.image.release import (
    changes_md,
    diff,
    formats,
    inspect,
    provenance,
    sbom,
    tree,
)
from serai.image.release.diff import Changes
from serai.image.release.report import report, treemap
from serai.image.release.source import Source
from serai.image.release.tree import Entry
from serai.image.settings import Settings

FORMATS = ("raw.zst", "vhdx", "oci")
_MOST_FINDINGS = 10  # that are printed; there may be thousands
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Build:
    """A build whose very bytes passed verification; ``sha256`` is its disk's."""

    folder: Path
    image: str
    sha256: str
    manifest: dict[str, Any]
    verify: dict[str, Any]

    @property
    def disk(self) -> Path:
        """The qcow2."""
        return self.folder / layout.disk(self.image)


def release(
    settings: Settings,
    image: str,
    version: str,
    *,
    build: str = "",
    previous: Path | None = None,
    key: Path | None = None,
    kinds: Sequence[str] = FORMATS,
) -> Path:
    """Make dist/<image>/<version>/ of the latest ``build`` of ``image``, or that one; return it.

    ``kinds`` are the formats that it has beside the qcow2, ``previous`` is the release to tell the
    differences from, ``key`` what SHA256SUMS is signed with. Raises BuildError, and leaves nothing,
    unless that build was verified and may be released; a version that is there already stays as it
    is.
    """
    finished = builds.find(settings, image, build)
    target = settings.dist / image / _require_version(version)
    with cache.locked(settings.dist / image / ".release.lock"):
        if target.exists() or target.is_symlink():
            raise BuildError(f"{target} is there already", hint="a release never changes")
        _require_readable(previous, key)
        for leftover in target.parent.glob(f".{version}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with console.step("see that this very build was verified"):
            made = require_verified(finished.folder, image)
        with (
            formats.scratch(settings, image) as work,
            offline.opened(made.disk, work) as root,
        ):
            with console.step("inspect the disk"):
                entries = _require_clean(made, root, finished.image, work)
            formats.warn(image, kinds, root)
            stamp = formats.time_of(made.manifest, made.folder)
            source = Source(finished.image, version, stamp, made.disk, root.raw)
            disk = _Disk(source, root, entries, work)
            with cache.whole(target) as folder:
                with console.step(f"write {image}'s formats and contents"):
                    _fill(settings, made, disk, kinds, folder)
                with console.step("tell what changed"):
                    _describe(made, version, disk, previous=previous, folder=folder)
                with console.step("sum and sign"):
                    _seal(made, version, folder, key)
    return target


def require_verified(folder: Path, image: str) -> Build:
    """The build in ``folder``, if its verify.json says that just this disk is good.

    Raises BuildError if not, or if a file is not what the build's SHA256SUMS has.
    """
    hint = f"run 'invoke verify-image --image {image}', then release again"
    if not (folder / layout.VERIFIED).is_file():
        raise BuildError(f"{image} {folder.name} was not verified", hint=hint)
    sums = sign.listed(folder)
    found = sign.digests(folder)
    for name, wanted in sums.items():
        if found.get(name) != wanted:
            raise BuildError(
                f"{folder / name} is not what was built",
                hint="remove that directory, build it again",
            )
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    verdict = json.loads((folder / layout.VERIFIED).read_text())
    disk = sums.get(layout.disk(image), "")
    if not disk or layout.MANIFEST not in sums or manifest["image"] != image:
        raise BuildError(f"{folder} is no build of {image}", hint="build it again")
    described = (verdict.get("image"), verdict.get("version"), verdict.get("sha256"))
    if described != (image, manifest["version"], disk):
        raise BuildError(
            f"{folder / layout.VERIFIED} speaks of another disk than the one beside it", hint=hint
        )
    failed = [check["name"] for check in verdict["checks"] if not check["ok"]]
    if failed or not verdict["checks"]:
        what = (
            f"{len(failed)} checks: {failed[0]}" if failed else "verification: it checked nothing"
        )
        raise BuildError(f"{image} {folder.name} failed {what}", hint=hint)
    return Build(folder, image, disk, manifest, verdict)


def _require_clean(made: Build, root: offline.RootFs, image: Image, work: Path) -> list[Entry]:
    """The disk's file manifest; raises BuildError if the disk must not be released."""
    disk = inspect.of_root(root, made.disk, work)
    findings = inspect.inspect(disk, image.budget, image.distribution)
    for finding in findings[:_MOST_FINDINGS]:
        console.say(f"  {finding.rule}: {finding.path or made.image}: {finding.words}")
    if findings:
        first = findings[0]
        raise BuildError(
            f"{made.image} must not be released, for {len(findings)} reasons, the first of them: "
            f"{first.path or made.image}: {first.words}",
            hint="correct the role that leaves it, or what src/serai/image/release/data/ allows",
        )
    return disk.entries


def _require_version(text: str) -> str:
    """``text``, if a release may be called so."""
    if not _VERSION.fullmatch(text):
        raise BuildError(
            f"{text!r} is no version of a release",
            hint="a digit, then letters, digits, '.', '+' and '-', for example 1.2.0",
        )
    return text


def _require_readable(previous: Path | None, key: Path | None) -> None:
    if key is not None and not key.is_file():
        raise BuildError(f"there is no key {key}", hint="make one: ssh-keygen -t ed25519 -f FILE")
    if previous is not None and not (previous / layout.MANIFEST).is_file():
        raise BuildError(f"{previous} is no release", hint="--previous needs a release's directory")


@dataclass(frozen=True)
class _Disk:
    """The build's disk, open, and what was found on it."""

    source: Source
    root: offline.RootFs
    entries: list[Entry]
    work: Path


def _fill(settings: Settings, made: Build, disk: _Disk, kinds: Sequence[str], folder: Path) -> None:
    """The disk in every form, and what is in it."""
    image, source = made.image, disk.source
    version, stamp, defined = source.version, source.stamp, source.definition
    subject = sbom.Subject(
        image, version, made.sha256, defined.distribution, defined.release, defined.arch
    )

    def contents() -> None:
        for name in (layout.disk(image), layout.MANIFEST, layout.PACKAGES, layout.VERIFIED):
            shutil.copyfile(made.folder / name, folder / name)
        formats.direct_boot(disk.root, image, folder)
        tree.write(folder / layout.FILES, disk.entries)
        parts = sbom.parts(disk.root, disk.entries, subject, pins.read(settings), disk.work)
        (folder / layout.SBOM).write_text(sbom.text(subject, parts, stamp), encoding="utf-8")

    jobs = formats.jobs(source, kinds, folder)
    in_parallel([*jobs, contents], threading.Event())


def _describe(
    made: Build,
    version: str,
    disk: _Disk,
    *,
    previous: Path | None,
    folder: Path,
) -> None:
    """What people read, CHANGES.md and report.html; the other files are there."""
    changes = _changes(previous, folder, version, disk.work) if previous else None
    chart = made.folder / layout.BOOT_CHART
    page = report.render(
        report.Inputs(
            manifest=made.manifest,
            verify=made.verify,
            packages=report.packages(disk.root.read("/var/lib/dpkg/status")),
            folders=treemap.folders(disk.entries),
            boot_chart=chart.read_text(errors="replace") if chart.is_file() else "",
            changes=changes,
            components=report.components(json.loads((folder / layout.SBOM).read_text())),
            version=version,
            download=made.disk.stat().st_size,
        )
    )
    (folder / layout.REPORT).write_text(page, encoding="utf-8")
    text = (
        changes_md.markdown(changes) if changes else changes_md.first_release(made.image, version)
    )
    (folder / layout.CHANGES).write_text(text, encoding="utf-8")


def _changes(previous: Path, folder: Path, version: str, work: Path) -> Changes:
    """What differs in ``folder``, to be called ``version``, from the release ``previous``."""
    old = replace(diff.read(previous, work), version=previous.resolve().name)
    return diff.compare(old, replace(diff.read(folder, work), version=version))


def _seal(made: Build, version: str, folder: Path, key: Path | None) -> None:
    found = sign.digests(folder)
    if found[made.disk.name] != made.sha256:
        raise BuildError(f"{made.disk} changed while it was released", hint="build it again")
    statement = provenance.text(made.manifest, version, found, folder)
    (folder / layout.PROVENANCE).write_text(statement, encoding="utf-8")
    found[layout.PROVENANCE] = digest.of_file(folder / layout.PROVENANCE)
    (folder / layout.SUMS).write_text(sign.sums(found), encoding="ascii")
    if key is None:
        console.warn("this release is not signed (--sign-key): nobody can tell whose it is")
    else:
        sign.sign(folder, key)
