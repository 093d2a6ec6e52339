"""Whether two trees are the same, but for what a reviewed list allows to differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serai.image.release import compare
from serai.image.release.allow import Rule, Rules
from serai.image.release.changes import File
from serai.image.release.tree import Entry


@dataclass(frozen=True)
class Outcome:
    """``unlisted`` differences, how many are ``allowed``, and rules that allow nothing any more."""

    unlisted: tuple[File, ...]
    allowed: int
    unused: tuple[Rule, ...]

    @property
    def lines(self) -> list[str]:
        """The unlisted differences for people, a line each."""
        return [f"{file.how} /{file.path} {file.what}".rstrip() for file in self.unlisted]


def differences(one: Iterable[Entry], other: Iterable[Entry], rules: Rules) -> Outcome:
    """How ``other`` differs from ``one`` where no rule has the path."""
    found = compare.files(one, other)
    unlisted = tuple(file for file in found if rules.find(file.path) is None)
    return Outcome(unlisted, len(found) - len(unlisted), tuple(rules.unused()))
