"""Judges how each system call ended that the probe tried, and those by another ABI."""

from __future__ import annotations

from errno import errorcode
from functools import partial

from serai.common.checks import Check, Facts, Finding, section
from serai.common.sandboxes import STRICT
from serai.runtime.doctor.calls import GROUPS, MACHINES, Group


def _refused(group: Group, facts: Facts) -> Finding:
    if group.strict and facts["wanted"]["sandbox"] != STRICT:
        return Finding([], f"the sandbox is {facts['wanted']['sandbox']}: they can")
    answers = facts["calls"]
    tried = [call for call in group.calls if call.name in answers]
    problems = [
        f"{call.name}: {errorcode.get(answers[call.name], 'it works')}"
        for call in tried
        if answers[call.name] != group.errno
    ]
    if not tried:
        # One of the processors may have none of them: then nobody can call them there.
        exists = any(
            all(call.number(machine) is None for call in group.calls) for machine in MACHINES
        )
        return Finding([] if exists else ["none was tried"], "no such call on this VM")
    return Finding(problems, f"{len(tried)} tried, {errorcode[group.errno]}")


def _foreign(facts: Facts) -> Finding:
    survived = [name for name, killed in facts["foreign"].items() if not killed]
    said = f"{len(facts['foreign'])} tried" if facts["foreign"] else "this VM has none"
    return Finding([f"{name} goes on" for name in survived], said)


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "system calls",
        "calls",
        *((group.name, partial(_refused, group), group.means) for group in GROUPS),
    ),
    *section(
        "system calls",
        "foreign",
        (
            "another ABI's system calls kill the process",
            _foreign,
            "Calls by another ABI have other numbers, which no rule of the filters looks at.",
        ),
    ),
)
