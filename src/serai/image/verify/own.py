"""The checks that an image brings itself: ``[[checks]]`` in its definition."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from serai.common.checks import Check, Finding, the
from serai.image.definition.definition import Image, OwnCheck
from serai.image.verify.facts import Evidence, Ran
from serai.image.vm.vm import VM

PART = "own"
_DEADLINE = 300.0  # seconds, under emulation too
_SHOWN = 200  # characters of what a command printed
_IN_A_SESSION = ("serai", "run", "--rm", "--")


def ran(vm: VM, wanted: Sequence[OwnCheck]) -> list[Ran]:
    """Run each command in the VM. Raises BuildError if one does not end."""
    return [_ran(vm, each) for each in wanted]


def _ran(vm: VM, check: OwnCheck) -> Ran:
    argv = [*(_IN_A_SESSION if check.session else ()), *check.command]
    done = vm.ssh.run(f"{shlex.join(argv)} 2>&1 </dev/null", timeout=_DEADLINE, check=False)
    return Ran(status=done.returncode, output=done.stdout)


def checks(image: Image) -> tuple[Check[Evidence], ...]:
    """A check for each, which has the name that the image gives it."""
    return tuple(_check(number, each) for number, each in enumerate(image.checks))


def _check(number: int, wanted: OwnCheck) -> Check[Evidence]:
    def find(evidence: Evidence) -> Finding:
        return judged(wanted, the(evidence.own)[number])

    return Check(PART, wanted.name, find)


def judged(wanted: OwnCheck, ran: Ran) -> Finding:
    """What to say of a command that ran."""
    said = " ".join(ran.output.split())[:_SHOWN] or "nothing"
    command = shlex.join(wanted.command)
    problems = []
    if ran.status:
        problems.append(f"{command} ended with {ran.status} and printed: {said}")
    elif not re.search(wanted.output, ran.output, re.MULTILINE):
        problems.append(f"{command} printed: {said}; looked for: {wanted.output}")
    return Finding(problems, said)
