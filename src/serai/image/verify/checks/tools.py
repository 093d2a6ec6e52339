"""What sessions and people have to work with: the tools of the chosen profile, and the limits."""

from __future__ import annotations

from collections.abc import Mapping

from serai.common.checks import Check, Finding, the
from serai.image.definition.tools import profile
from serai.image.verify.facts import Evidence
from serai.runtime import settings

DOCUMENTS = ["a book", "a paper", "a slide"]  # as in exercise.py, which runs elsewhere
# Whoever logs in has the limits of a session's processes; sizes in KiB, as ulimit says them.
SESSION = settings.Limits()
LIMITS = {
    "nofile": SESSION.nofile,
    "nproc": SESSION.nproc,
    "stack": SESSION.stack >> 10,
    "memlock": SESSION.memlock >> 10,
}
LOCALE = "C.UTF-8"


def _tools(evidence: Evidence) -> Finding:
    found, due = the(evidence.exercise).versions, evidence.promised
    problems = [
        _unlike(name, found.get(name, ""), begin)
        for name, begin in due.items()
        if not _is(found.get(name, ""), begin)
    ]
    listed = ", ".join(f"{name} {found[name]}" for name in due if found.get(name))
    return Finding(problems, f"{profile(evidence.image)}: {listed or 'nothing is promised'}")


def _is(version: str, begin: str) -> bool:
    return bool(version) and f"{version}.".startswith(f"{begin}." if begin else "")


def _unlike(name: str, version: str, begin: str) -> str:
    return f"{name} is {version}, not {begin}" if version else f"{name} is not there"


def _uninvited(evidence: Evidence) -> Finding:
    there = the(evidence.exercise).uninvited
    if evidence.image.variables.get("toolchain_packages"):
        return Finding([], f"asked for packages of its own; {', '.join(there) or 'none'}")
    return Finding([f"{name} is there" for name in there], "none")


def _work(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    if profile(evidence.image) not in ("standard", "full"):
        return Finding([], "not promised without the profile standard")
    problems = []
    if seen.documents != DOCUMENTS:
        problems.append(f"the documents say {', '.join(seen.documents) or 'nothing'}")
    if seen.compiled != "compiled":
        problems.append(f"the program says {seen.compiled or 'nothing'}")
    return Finding(problems, ", ".join(DOCUMENTS))


def _login(evidence: Evidence) -> Finding:
    found, chosen = the(evidence.first).facts.login, evidence.image.variables
    problems = list(_limits(found.limits, chosen))
    locale = chosen.get("identity_locale", LOCALE)
    if found.locale != locale:
        problems.append(f"the locale is {found.locale or 'not set'}, not {locale}")
    told = ", ".join(f"{name} {value}" for name, value in found.limits.items())
    return Finding(problems, f"{told}, {found.locale}")


def _limits(found: Mapping[str, str], chosen: Mapping[str, object]) -> list[str]:
    due = {name: str(chosen.get(f"limits_{name}", value)) for name, value in LIMITS.items()}
    return [
        f"{name} is {found.get(name, 'unknown')}, not {value}"
        for name, value in due.items()
        if found.get(name) != value
    ]


CHECKS: tuple[Check[Evidence], ...] = (
    Check(
        "exercise", "a session has the tools of the image's profile, in the versions named", _tools
    ),
    Check("exercise", "Go, Rust and Docker are there only if asked for", _uninvited),
    Check(
        "exercise",
        "in a session docx, pptx and xlsx are made, printed and read, and C compiled",
        _work,
    ),
    Check("login", "a login has the limits and the locale", _login),
)
