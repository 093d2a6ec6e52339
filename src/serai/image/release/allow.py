"""Reviewed lists: what is allowed or refused, a pattern and its reason a line.

A pattern is a shell's (fnmatch(3)), and its '*' stands for slashes too; it ends at the first blank,
for which '?' stands. What follows is the reason, without which a line is refused. A reason that
begins with 'at times' belongs to a rule that need not be used each time.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serai.image.errors import BuildError

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Rule:
    """What texts a rule is for, and why it is there."""

    pattern: str
    reason: str


class Rules:
    """A list of rules that notes which of them were used."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [(rule, re.compile(fnmatch.translate(rule.pattern))) for rule in rules]
        self._used: set[Rule] = set()

    def find(self, text: str) -> Rule | None:
        """The first rule for ``text``; None where there is none."""
        for rule, pattern in self._rules:
            if pattern.match(text):
                self._used.add(rule)
                return rule
        return None

    def unused(self) -> list[Rule]:
        """The rules that should have been the first for something so far, in their order."""
        unused = (rule for rule, _ in self._rules if rule not in self._used)
        return [rule for rule in unused if not rule.reason.startswith("at times")]

    def __iter__(self) -> Iterator[Rule]:
        return (rule for rule, _ in self._rules)


def load(name: str, distribution: str = "") -> Rules:
    """The list of that name that belongs to us, and what the distribution has beside it."""
    own = _DATA / f"{name}-{distribution}.txt"
    return Rules([*parse(_DATA / f"{name}.txt"), *(parse(own) if own.exists() else ())])


def parse(path: Path) -> Rules:
    """The list in ``path``; raises BuildError naming a line that has no reason."""
    rules = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise BuildError(f"{path.name}:{number}: {pattern} has no reason", hint="say why")
        rules.append(Rule(pattern, reason.strip()))
    return Rules(rules)
