"""Build an image twice from the same inputs, and compare the results.

Only what a reviewed list allows may differ: ``differences`` judges that for any two trees.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from serai.image import cache, console
from serai.image.build import build
from serai.image.errors import BuildError
from serai.image.release import allow, diff
from serai.image.release.allow import Rule, Rules
from serai.image.release.diff import File
from serai.image.release.tree import Entry
from serai.image.run import run
from serai.image.settings import Settings

ALLOWED = "twice"
"""The list of paths that may differ."""

# mke2fs takes the first one since e2fsprogs 1.47.1, and the second one before.
_DATES = ("SOURCE_DATE_EPOCH", "E2FSPROGS_FAKE_TIME")


@dataclass(frozen=True)
class Outcome:
    """``unlisted`` differences, how many are ``allowed``, and rules that allow nothing now."""

    unlisted: tuple[File, ...]
    allowed: int
    unused: tuple[Rule, ...]

    @property
    def lines(self) -> list[str]:
        """The unlisted differences for people, a line each."""
        return [f"{file.how} /{file.path} {file.what}".rstrip() for file in self.unlisted]


def differences(one: Iterable[Entry], other: Iterable[Entry], rules: Rules) -> Outcome:
    """How ``other`` differs from ``one`` where no rule has the path."""
    found = diff.files(one, other)
    unlisted = tuple(file for file in found if rules.find(file.path) is None)
    return Outcome(unlisted, len(found) - len(unlisted), tuple(rules.unused()))


def build_twice(
    settings: Settings,
    name: str,
    *,
    overrides: tuple[str, ...] = (),
    make: Callable[..., Path] = build.build,
) -> int:
    """Build ``name`` twice and say what differs; 0 if only what may.

    Each build has a cache of its own below ``twice`` in the cache, empty at the beginning, but what
    was downloaded by its digest. SOURCE_DATE_EPOCH is the revision's unless it is set. Raises
    BuildError if a build fails, or if an input changed between the two.
    """
    home = settings.cache / "twice" / name
    with cache.locked(home.parent / f".{name}.lock"), source_date(settings.root):
        shutil.rmtree(home, ignore_errors=True)
        folders = []
        for which in ("first", "second"):
            console.say(f"the {which} build")
            folders.append(make(_separate(settings, home / which), name, overrides=overrides))
        if folders[0].name != folders[1].name:
            raise BuildError(
                f"{name}: something it is made of changed between the builds",
                hint="leave the checkout alone meanwhile",
            )
        return report(*(diff.read(folder, home) for folder in folders))


def report(first: diff.Contents, second: diff.Contents) -> int:
    """Say what differs; 1 if something does that is not on the list."""
    found = diff.compare(first, second)
    outcome = differences(first.entries, second.entries, allow.load(ALLOWED))
    for package in (*found.added, *found.removed, *found.upgraded, *found.downgraded):
        console.fail(f"package {package.name}: {package.old or '-'} and {package.new or '-'}")
    for line in outcome.lines:
        console.fail(line)
    for rule in outcome.unused:
        console.warn(f"{rule.pattern} was the same in both: is it still to be allowed?")
    console.say(
        f"{first.image} {first.version}: {len(first.packages)} packages, "
        f"{len(first.entries)} paths; {outcome.allowed} differ as allowed, "
        f"{len(outcome.unlisted)} otherwise"
    )
    return 1 if outcome.lines or first.packages != second.packages else 0


@contextmanager
def source_date(root: Path) -> Iterator[None]:
    """Every child process takes the revision's time for now where it heeds SOURCE_DATE_EPOCH.

    reproducible-builds.org/specs/source-date-epoch
    """
    before = {name: os.environ.get(name) for name in _DATES}
    revision = run(["git", "log", "-1", "--format=%ct"], cwd=root, check=False).stdout.strip()
    date = before[_DATES[0]] or revision or "1"
    os.environ.update(dict.fromkeys(_DATES, date))
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _separate(settings: Settings, home: Path) -> Settings:
    """Settings with a cache and results of their own."""
    separate = replace(settings, cache=home / "cache", dist=home / "dist", cache_remote="")
    downloads = settings.cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    separate.cache.mkdir(parents=True)
    (separate.cache / downloads.name).symlink_to(downloads)
    return separate
