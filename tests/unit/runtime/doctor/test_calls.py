"""The table of refused system calls, against the rules of the filters."""

from __future__ import annotations

import pytest

from serai.common.checks import Facts, judge
from serai.runtime.doctor import calls, refused_calls
from serai.runtime.sandbox.seccomp import BASELINE, UNIX_BLOCK


@pytest.mark.parametrize("arch", calls.MACHINES)
def test_every_refused_call_is_tried(arch: str) -> None:
    """By name: each rule's system call is one of the table's, or not one of this machine."""
    rules = {call for rule in (*BASELINE, *UNIX_BLOCK) for call in rule.syscalls}
    ours = {call.name.split()[0] for group in calls.GROUPS for call in group.calls}
    by_request = {
        "TIOCSTI": "ioctl",
        "TIOCSTI,": "ioctl",
        "TIOCLINUX": "ioctl",
        "TIOCSETD": "ioctl",
    }
    tried = {by_request.get(name, "ptrace" if name.startswith("PTRACE") else name) for name in ours}
    assert rules - tried == {"clock_settime64"}, "which 64-bit machines do not have"
    asked = calls.request(arch)
    assert len({row[0] for row in asked}) == len(asked)


def test_a_call_that_was_not_tried_is_red() -> None:
    checks = [each for each in refused_calls.CHECKS if each.part == "calls"]
    results = judge(Facts({"calls": {}}), {}, checks)
    # Those that one of the machines does not have need not be there.
    assert {each.check.name for each in results if each.ok} == {
        "ports and segments of the processor are refused",
        "old calls about file systems are refused",
    }
