"""A release: a folder with a verified image, all that belongs to it, and one signature over it."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.image import cache, console, digest, offline
from serai.image.build import build
from serai.image.definition import definition, pins
from serai.image.definition.definition import Budget
from serai.image.errors import BuildError
from serai.image.parallel import in_parallel
from serai.image.release import formats, inspect, layout, narrate, provenance, sbom, sign, tree
from serai.image.settings import Settings
from serai.image.verify import shipped
from serai.image.verify.verify import BOOT_CHART

FORMATS = ("raw.zst", "vhdx", "oci")
_SHOWN = 10  # findings; there may be thousands


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
        return self.folder / f"{self.image}.qcow2"


def release(
    settings: Settings,
    image: str,
    version: str,
    *,
    previous: Path | None = None,
    key: Path | None = None,
) -> Path:
    """Make dist/<image>/<version>/ of the newest build of ``image`` and return it.

    ``previous`` is the release to tell the differences from, ``key`` what SHA256SUMS is signed
    with. Raises BuildError, and leaves nothing, unless that build was verified and may be released;
    a version that is there already stays as it is.
    """
    budget = definition.load(settings, image).budget
    target = settings.dist / image / layout.version(version)
    with cache.locked(settings.dist / image / ".release.lock"):
        if target.exists() or target.is_symlink():
            raise BuildError(f"{target} is there already", hint="a release never changes")
        _require_readable(previous, key)
        for leftover in target.parent.glob(f".{version}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with console.step("see that this very build was verified"):
            made = verified(build.latest(settings, image), image)
        with (
            formats.scratch(settings, image) as work,
            offline.opened(made.disk, work) as root,
        ):
            with console.step("inspect the disk"):
                disk = _Disk(root, inspected(made, root, budget, work), work)
            with cache.whole(target) as folder:
                with console.step(f"write {image}'s formats and contents"):
                    _fill(settings, made, version, disk, folder)
                with console.step("tell what changed"):
                    _narrate(made, version, disk, previous=previous, folder=folder)
                with console.step("sum and sign"):
                    _seal(made, version, folder, key)
    return target


def verified(folder: Path, image: str) -> Build:
    """The build in ``folder``, if its verify.json says that just this disk is good.

    Raises BuildError if not, or if a file is not what the build's SHA256SUMS has.
    """
    hint = f"run 'invoke verify-image --image {image}', then release again"
    if not (folder / layout.VERIFIED).is_file():
        raise BuildError(f"{image} {folder.name} was not verified", hint=hint)
    sums = sign.parse((folder / layout.SUMS).read_text(encoding="ascii", errors="replace"))
    found = sign.digests(folder)
    for name, wanted in sums.items():
        if found.get(name) != wanted:
            raise BuildError(
                f"{folder / name} is not what was built", hint="remove that folder, build it again"
            )
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    report = json.loads((folder / layout.VERIFIED).read_text())
    disk = sums.get(f"{image}.qcow2", "")
    if not disk or layout.MANIFEST not in sums or manifest["image"] != image:
        raise BuildError(f"{folder} is no build of {image}", hint="build it again")
    told = (report.get("image"), report.get("version"), report.get("sha256"))
    if told != (image, manifest["version"], disk):
        raise BuildError(
            f"{folder / layout.VERIFIED} speaks of another disk than the one beside it", hint=hint
        )
    failed = [check["name"] for check in report["checks"] if not check["ok"]]
    if failed or not report["checks"]:
        what = (
            f"{len(failed)} checks: {failed[0]}" if failed else "verification: it checked nothing"
        )
        raise BuildError(f"{image} {folder.name} failed {what}", hint=hint)
    return Build(folder, image, disk, manifest, report)


def inspected(made: Build, root: offline.RootFs, budget: Budget, work: Path) -> list[tree.Entry]:
    """The disk's file manifest; raises BuildError if the disk must not be released."""
    entries = tree.of_root(root, work)
    disk = inspect.Disk(
        entries=entries,
        shipped=shipped.of_root(root, work),
        image_bytes=made.disk.stat().st_size,
        root_bytes=root.used(),
    )
    findings = inspect.inspect(disk, budget)
    for finding in findings[:_SHOWN]:
        console.say(f"  {finding.rule}: {finding.path or made.image}: {finding.words}")
    if findings:
        first = findings[0]
        raise BuildError(
            f"{made.image} must not be released, for {len(findings)} reasons, the first of them: "
            f"{first.path or made.image}: {first.words}",
            hint="correct the role that leaves it, or what src/serai/image/release/data/ allows",
        )
    return entries


def _require_readable(previous: Path | None, key: Path | None) -> None:
    if key is not None and not key.is_file():
        raise BuildError(f"there is no key {key}", hint="make one: ssh-keygen -t ed25519 -f FILE")
    if previous is not None and not (previous / layout.MANIFEST).is_file():
        raise BuildError(f"{previous} is no release", hint="--previous needs a release's folder")


@dataclass(frozen=True)
class _Disk:
    """The build's disk, open, and what was found on it."""

    root: offline.RootFs
    entries: list[tree.Entry]
    work: Path


def _fill(settings: Settings, made: Build, version: str, disk: _Disk, folder: Path) -> None:
    """The disk in every form, and what is in it."""
    image, told = made.image, made.manifest["definition"]
    stamp = formats.time_of(made.manifest, made.folder)
    source = formats.Source(image, told["arch"], version, stamp, made.disk, disk.root.raw)
    subject = sbom.Subject(
        image, version, made.sha256, told["distribution"], told["release"], told["arch"]
    )

    def contents() -> None:
        for name in (f"{image}.qcow2", layout.MANIFEST, layout.PACKAGES, layout.VERIFIED):
            shutil.copyfile(made.folder / name, folder / name)
        formats.direct_boot(disk.root, image, folder)
        tree.write(folder / layout.FILES, disk.entries)
        parts = sbom.parts(disk.root, disk.entries, subject, pins.read(settings), disk.work)
        (folder / layout.SBOM).write_text(sbom.text(subject, parts, stamp), encoding="utf-8")

    jobs = formats.jobs(source, FORMATS, folder)
    in_parallel([*jobs, contents], threading.Event())


def _narrate(
    made: Build,
    version: str,
    disk: _Disk,
    *,
    previous: Path | None,
    folder: Path,
) -> None:
    """What people read; the other files are there."""
    found = narrate.differences(previous, folder, version, disk.work) if previous else None
    drawn = made.folder / BOOT_CHART
    page = narrate.page(
        made.manifest,
        made.verify,
        version=version,
        status=disk.root.read("/var/lib/dpkg/status"),
        entries=disk.entries,
        bill=json.loads((folder / layout.SBOM).read_text()),
        boot_chart=drawn.read_text(errors="replace") if drawn.is_file() else "",
        found=found,
        download=made.disk.stat().st_size,
    )
    (folder / layout.REPORT).write_text(page, encoding="utf-8")
    changelog = narrate.changelog(made.image, version, found)
    (folder / layout.CHANGES).write_text(changelog, encoding="utf-8")


def _seal(made: Build, version: str, folder: Path, key: Path | None) -> None:
    found = sign.digests(folder)
    if found[f"{made.image}.qcow2"] != made.sha256:
        raise BuildError(f"{made.disk} changed while it was released", hint="build it again")
    statement = provenance.text(made.manifest, version, found, folder)
    (folder / layout.PROVENANCE).write_text(statement, encoding="utf-8")
    found[layout.PROVENANCE] = digest.of_file(folder / layout.PROVENANCE)
    (folder / layout.SUMS).write_text(sign.sums(found), encoding="ascii")
    if key is None:
        console.warn("this release is not signed (--sign-key): nobody can tell whose it is")
    else:
        sign.sign(folder, key)
