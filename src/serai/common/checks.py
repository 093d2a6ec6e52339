"""What a check is, and how collected facts are judged. Nothing here touches a VM.

Checks are rows of a tuple. A check is given facts and returns a Finding; what they are about could
be a VM's insides (``serai.runtime.doctor``) or a finished image (``serai.image.verify``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_F = TypeVar("_F")


class Absent(Exception):  # noqa: N818 - it is no error, but a finding
    """A check has nothing to judge; the text says why. It fails then."""


def the(part: _T | str) -> _T:
    """A part of the facts. Raises Absent if it is text: the reason why it was not collected."""
    if isinstance(part, str):
        raise Absent(part)
    return part


class Facts:
    """What was collected, by part; a part that could not be collected is the reason, as text."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts

    def __getitem__(self, part: str) -> Any:
        return the(self._parts.get(part, "it was not looked at"))


@dataclass(frozen=True)
class Finding:
    """What a check found: the problems, or else what is well, in words."""

    problems: list[str]
    found: str


@dataclass(frozen=True)
class Check(Generic[_F]):
    """``name`` is the promise, ``means`` what follows for people when it is broken.

    ``part`` is what was collected for it, ``area`` the heading that people find it under.
    """

    part: str
    name: str
    find: Callable[[_F], Finding]
    means: str = ""
    area: str = ""


def section(
    area: str, part: str, *rows: tuple[str, Callable[[_F], Finding], str]
) -> tuple[Check[_F], ...]:
    """Checks of one area that judge the same part: name, how to find out, what it means."""
    return tuple(Check(part, *row, area) for row in rows)


@dataclass(frozen=True)
class Result:
    """The outcome of one check; ``seconds`` is the time it took to collect what was judged."""

    check: Check[Any]
    ok: bool
    detail: str
    seconds: float


def judge(facts: _F, took: Mapping[str, float], checks: Iterable[Check[_F]]) -> list[Result]:
    """Every check's result, in their order; ``took`` is seconds by part."""
    return [_result(check, facts, took.get(check.part, 0.0)) for check in checks]


def _result(check: Check[_F], facts: _F, seconds: float) -> Result:
    try:
        finding = check.find(facts)
    except Absent as reason:
        return Result(check, False, f"not seen: {reason}", seconds)
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        # What a VM out of order answers may have any shape.
        return Result(check, False, f"not seen: {type(error).__name__} {error}", seconds)
    ok = not finding.problems
    return Result(check, ok, finding.found if ok else "; ".join(finding.problems), seconds)


def summary(results: Iterable[Result], digits: int = 3) -> dict[str, Any]:
    """The results as JSON; ``means`` only where a check failed. Seconds have so many ``digits``."""
    results = list(results)
    return {
        "checks": [
            {
                "name": each.check.name,
                "ok": each.ok,
                "detail": each.detail,
                "seconds": round(each.seconds, digits),
                **({"means": each.check.means} if each.check.means and not each.ok else {}),
            }
            for each in results
        ],
        "passed": sum(each.ok for each in results),
        "failed": sum(not each.ok for each in results),
    }


# --- findings of the commonest kinds


def problem(text: str, said: str = "yes") -> Finding:
    """Passes if there is no ``text``; ``said`` is the message then."""
    return Finding([text] if text else [], said)


def same(found: Any, wanted: Any, said: str = "") -> Finding:
    """Passes if both are equal; ``said`` is the message then, else it is what was found."""
    problems = [] if found == wanted else [f"it is {_shown(found)}, not {_shown(wanted)}"]
    return Finding(problems, said or _shown(found))


def none_of(found: Iterable[object], said: str = "none") -> Finding:
    """Passes if nothing was found."""
    return Finding([_shown(each) for each in found], said)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value) if isinstance(value, set | frozenset) else value
        return ", ".join(map(str, ordered)) or "nothing"
    return str(value) if value != "" else "nothing"
