"""What a check is, and how all of them judge what was collected. Nothing here touches the VM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Absent(Exception):  # noqa: N818 - it is no error, but a finding
    """A check has nothing to judge; the text says why. It fails then."""


class Facts:
    """What was collected, by part; a part that could not be collected is the reason, as text."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts

    def __getitem__(self, part: str) -> Any:
        found = self._parts.get(part, "it was not looked at")
        if isinstance(found, str):
            raise Absent(found)
        return found


@dataclass(frozen=True)
class Finding:
    """What a check found: the problems, or else what is well, in words."""

    problems: list[str]
    found: str


Find = Callable[[Facts], Finding]


@dataclass(frozen=True)
class Check:
    """``name`` is the promise, ``means`` what it means when it is broken.

    ``area`` is the heading that people find it under, ``part`` what was collected for it.
    """

    name: str
    area: str
    part: str
    means: str
    find: Find


@dataclass(frozen=True)
class Result:
    """One line; ``seconds`` is the time it took to collect what was judged."""

    check: Check
    ok: bool
    detail: str
    seconds: float


CHECKS: list[Check] = []


@dataclass(frozen=True)
class Section:
    """Adds checks of one area that judge the same part."""

    area: str
    part: str

    def __call__(self, name: str, means: str, part: str = "") -> Callable[[Find], Find]:
        """Add the function that this decorates; ``part`` where it is not the section's own."""

        def register(find: Find) -> Find:
            CHECKS.append(Check(name, self.area, part or self.part, means, find))
            return find

        return register


def judge(
    facts: Mapping[str, Any], took: Mapping[str, float], checks: Iterable[Check] = CHECKS
) -> list[Result]:
    """Every check's result, in the order of ``CHECKS``; ``took`` is seconds by part."""
    seen = Facts(facts)
    return [_result(check, seen, took.get(check.part, 0.0)) for check in checks]


def _result(check: Check, facts: Facts, seconds: float) -> Result:
    try:
        finding = check.find(facts)
    except Absent as reason:
        return Result(check, False, f"not seen: {reason}", seconds)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # What a machine out of order answers may have any shape.
        return Result(check, False, f"not seen: {type(error).__name__} {error}", seconds)
    ok = not finding.problems
    return Result(check, ok, finding.found if ok else "; ".join(finding.problems), seconds)


def same(found: Any, wanted: Any, said: str = "") -> Finding:
    """Well if both are equal; ``said`` is what to say then, else it is what was found."""
    problems = [] if found == wanted else [f"it is {_shown(found)}, not {_shown(wanted)}"]
    return Finding(problems, said or _shown(found))


def none_of(found: Iterable[object], said: str = "none") -> Finding:
    """Well if nothing was found."""
    return Finding([_shown(each) for each in found], said)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value) if isinstance(value, set | frozenset) else value
        return ", ".join(map(str, ordered)) or "nothing"
    return str(value) if value != "" else "nothing"
