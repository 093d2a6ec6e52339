"""What a check is, and how all of them judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from serai.image.verify.facts import Evidence, Machine

_T = TypeVar("_T")


class Absent(Exception):  # noqa: N818 - it is no error, but a finding
    """A check has nothing to judge; the text says why. It fails then."""


@dataclass(frozen=True)
class Finding:
    """What a check found: the problems, or else what is well, in words."""

    problems: list[str]
    found: str


@dataclass(frozen=True)
class Check:
    """``part`` names what was gathered for it, which is what it costs."""

    name: str
    part: str
    find: Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Result:
    """One line of ``verify.json``; ``seconds`` is the time it took to gather what was judged."""

    name: str
    ok: bool
    detail: str
    seconds: float


CHECKS: list[Check] = []


def judge(evidence: Evidence, took: dict[str, float]) -> list[Result]:
    """Every check's result, in the order of ``CHECKS``; ``took`` is seconds by part."""
    return [_result(check, evidence, took.get(check.part, 0.0)) for check in CHECKS]


def _result(check: Check, evidence: Evidence, seconds: float) -> Result:
    try:
        finding = check.find(evidence)
    except Absent as reason:
        return Result(check.name, False, f"not seen: {reason}", round(seconds, 1))
    ok = not finding.problems
    detail = finding.found if ok else "; ".join(finding.problems)
    return Result(check.name, ok, detail, round(seconds, 1))


def check(name: str, part: str) -> Callable[[Callable[[Evidence], Finding]], None]:
    """Add a function to the checks; ``name`` is the promise that it judges."""

    def register(find: Callable[[Evidence], Finding]) -> None:
        CHECKS.append(Check(name, part, find))

    return register


def the(seen: _T | str) -> _T:
    """What was gathered, or Absent with the reason why it was not."""
    if isinstance(seen, str):
        raise Absent(seen)
    return seen


def not_up(name: str, machine: Machine, tolerated: frozenset[str] = frozenset()) -> Iterator[str]:
    """What keeps a boot from being a good one; ``tolerated`` units may fail."""
    boot = machine.facts.boot
    if boot.multi_user != "active":
        yield f"{name}: multi-user.target is {boot.multi_user}"
    for unit in boot.failed:
        if unit not in tolerated:
            yield f"{name}: {unit} failed"
    if boot.state != "running" and not boot.failed:
        yield f"{name}: the system is {boot.state}"
