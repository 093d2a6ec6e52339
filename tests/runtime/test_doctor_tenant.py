"""The throwaway session against a real sessiond and gate; the daemon weakened in one step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serai.runtime import policy
from serai.runtime.doctor import collect, core, report, tenant
from tests.runtime.vm import Vm, opened, wait_for

# The stand-in for systemd gives no limits.
CONTROLLERS = {check.name for check in core.CHECKS if check.part == "cgroup"} - {
    "a payload has a cgroup of its own"
}
CHECKS = [
    check for check in core.CHECKS if check.part in tenant.PARTS and check.name not in CONTROLLERS
]
# The build host does not ask libnss-extrausers.
assert report.AREAS


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        machine.start()
        yield machine


def examined(vm: Vm) -> dict[str, str]:
    """The checks that fail, and why."""
    rules = policy.load(vm.paths.policy)
    facts = tenant.gather(vm.paths, rules, {})
    facts["policy"] = collect.policy_of(vm.paths)
    return {each.check.name: each.detail for each in core.judge(facts, {}, CHECKS) if not each.ok}


def test_a_whole_vm_is_all_green_and_nothing_is_left(vm: Vm) -> None:
    assert examined(vm) == {}
    assert vm.sessions() == {}
    wait_for(lambda: vm.processes() == 0)
    assert not [path for path in vm.paths.sessions.iterdir() if path.name != ".serai"]
