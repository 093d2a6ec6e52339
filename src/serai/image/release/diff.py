"""What differs between two builds or releases of an image: packages, files, size, boot, checks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from serai.image import layout
from serai.image.errors import BuildError
from serai.image.release import tree
from serai.image.release.tree import Entry
from serai.image.run import run

OUTCOMES = {True: "passed", False: "failed", None: "not made"}
_DEPTH = 3  # parts of a directory's path that files are grouped by
_SETID = 0o6000
_UNITS = ("etc/systemd/system/", "usr/lib/systemd/system/")
_T = TypeVar("_T")


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
class Directory:
    """The paths of one directory, or below it, that differ; sorted."""

    path: str
    files: tuple[File, ...]

    def count(self, how: str) -> int:
        """How many of them were added, removed or changed."""
        return sum(file.how == how for file in self.files)


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

    @property
    def notable(self) -> list[tuple[str, str]]:
        """What to look at first: a name, and what is new about it."""
        kinds = (
            ("runs with more rights than who starts it", self.privileged),
            ("listens", self.sockets),
            ("is started", self.units),
        )
        return [(name, words) for words, names in kinds for name in names]

    @property
    def packages(self) -> list[tuple[str, Package]]:
        """Every package that differs, and in what way."""
        kinds = {
            "added": self.added,
            "removed": self.removed,
            "upgraded": self.upgraded,
            "downgraded": self.downgraded,
        }
        return [(kind, package) for kind, packages in kinds.items() for package in packages]

    @property
    def directories(self) -> list[Directory]:
        """The files by the first parts of their path."""

        def directory(file: File) -> str:
            return "/" + "/".join(file.path.split("/")[:-1][:_DEPTH])

        by_directory = sorted(self.files, key=lambda file: (directory(file), file.path))
        groups = itertools.groupby(by_directory, key=directory)
        return [Directory(path, tuple(files)) for path, files in groups]


@dataclass(frozen=True)
class Contents:
    """What is in the directory of a build or a release. ``packages`` are versions by name.

    ``checks`` are those of verify.json and whether each passed; without that file there are none,
    and ``boot_seconds`` is None.
    """

    image: str
    version: str
    revision: str
    packages: Mapping[str, str]
    entries: tuple[Entry, ...]
    image_bytes: int
    boot_seconds: float | None
    checks: Mapping[str, bool]


def read(folder: Path, work: Path) -> Contents:
    """What is in ``folder``. A build has no file manifest: its disk is read, below ``work``.

    Raises BuildError if ``folder`` is not a build's or a release's.
    """
    manifest = _json(folder / layout.MANIFEST)
    disk = folder / layout.disk(manifest["image"])
    listed = folder / layout.FILES
    if not disk.is_file():
        raise BuildError(f"{folder} has no {disk.name}", hint="give the directory of a build")
    verified = folder / layout.VERIFIED
    verdict = _json(verified) if verified.exists() else {"boot_seconds": None, "checks": []}
    entries = tree.load(listed) if listed.exists() else tree.of_disk(disk, work)
    return Contents(
        image=manifest["image"],
        version=manifest["version"],
        revision=manifest["revision"],
        packages=packages((folder / layout.PACKAGES).read_text()),
        entries=tuple(entries),
        image_bytes=disk.stat().st_size,
        boot_seconds=verdict["boot_seconds"],
        checks={check["name"]: check["ok"] for check in verdict["checks"]},
    )


def packages(text: str) -> dict[str, str]:
    """Versions by name of packages.txt; a name that two architectures have is 'name:arch'."""
    lines = [line.split() for line in text.splitlines()]
    count = Counter(name for name, _, _ in lines)
    return {
        name if count[name] == 1 else f"{name}:{arch}": version for name, version, arch in lines
    }


def older(version: str, other: str) -> bool:
    """Whether ``version`` comes before ``other`` in dpkg's order (deb-version(7))."""
    return run(["dpkg", "--compare-versions", version, "lt", other], check=False).returncode == 0


def compare(old: Contents, new: Contents) -> Changes:
    """What differs in ``new`` from ``old``; each list is sorted."""
    both = [
        Package(name, old.packages[name], new.packages[name])
        for name in sorted(old.packages.keys() & new.packages.keys())
        if old.packages[name] != new.packages[name]
    ]
    up = [package for package in both if older(package.old, package.new)]
    checks = [
        CheckChange(name, old.checks.get(name), new.checks.get(name))
        for name in sorted({*old.checks, *new.checks})
        if old.checks.get(name) != new.checks.get(name)
    ]
    units = sorted(_enabled(new.entries) - _enabled(old.entries))
    return Changes(
        old=_side(old),
        new=_side(new),
        privileged=tuple(_privileged(old.entries, new.entries)),
        sockets=tuple(unit for unit in units if unit.endswith(".socket")),
        units=tuple(unit for unit in units if not unit.endswith(".socket")),
        added=tuple(Package(name, "", v) for name, v in _only(new.packages, old.packages)),
        removed=tuple(Package(name, v, "") for name, v in _only(old.packages, new.packages)),
        upgraded=tuple(up),
        downgraded=tuple(package for package in both if package not in up),
        files=tuple(files(old.entries, new.entries)),
        # Nothing was checked on one side: then no check has changed.
        checks=tuple(checks) if old.checks and new.checks else (),
    )


def files(old: Iterable[Entry], new: Iterable[Entry]) -> list[File]:
    """The paths that are not the same in both trees, sorted, and what of them is not."""
    before = {entry.path: entry for entry in old}
    after = {entry.path: entry for entry in new}
    found = []
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one != other:
            how = "added" if one is None else "removed" if other is None else "changed"
            found.append(File(path, how, _what(one, other)))
    return found


def _what(old: Entry | None, new: Entry | None) -> str:
    """What has changed of a path that both trees have."""
    if old is None or new is None:
        return ""
    if old.type != new.type:
        return f"type {old.type} → {new.type}"
    found = []
    if (old.digest, old.size) != (new.digest, new.size):
        found.append(f"{old.digest} → {new.digest}" if new.type == "l" else "content")
    if old.mode != new.mode:
        found.append(f"mode {old.mode:04o} → {new.mode:04o}")
    if (old.owner, old.group) != (new.owner, new.group):
        found.append(f"owner {old.owner}:{old.group} → {new.owner}:{new.group}")
    if old.capabilities != new.capabilities:
        found.append(f"capabilities {old.capabilities or 'none'} → {new.capabilities or 'none'}")
    return ", ".join(found)


def _side(contents: Contents) -> Side:
    return Side(
        image=contents.image,
        version=contents.version,
        revision=contents.revision,
        image_bytes=contents.image_bytes,
        files_bytes=sum(entry.size for entry in contents.entries),
        files=len(contents.entries),
        packages=len(contents.packages),
        boot_seconds=contents.boot_seconds,
        passed=sum(contents.checks.values()),
        checks=len(contents.checks),
    )


def _privileged(old: Iterable[Entry], new: Iterable[Entry]) -> list[str]:
    """Programs with rights that they did not have: setuid, setgid, capabilities."""
    had = {entry.path: _rights(entry) for entry in old}
    return sorted(
        f"{entry.path} ({rights})"
        for entry in new
        if (rights := _rights(entry)) and rights != had.get(entry.path)
    )


def _rights(entry: Entry) -> str:
    if entry.type != "f":
        return ""
    mode = f"{entry.mode:04o} {entry.owner}:{entry.group}" if entry.mode & _SETID else ""
    return " ".join(part for part in (mode, entry.capabilities) if part)


def _enabled(entries: Iterable[Entry]) -> set[str]:
    """Units that others pull in, sockets that systemd listens on among them (systemd.unit(5))."""
    return {
        PurePosixPath(entry.path).name
        for entry in entries
        if entry.type == "l"
        and entry.path.startswith(_UNITS)
        and entry.path.split("/")[-2].endswith((".wants", ".requires"))
    }


def _only(these: Mapping[str, _T], others: Mapping[str, _T]) -> list[tuple[str, _T]]:
    return [(name, these[name]) for name in sorted(these.keys() - others.keys())]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BuildError(
            f"{path} cannot be read: {why}", hint="give the directory of a build or a release"
        ) from None
    return found
