"""The containment checks: green in a whole sandbox, and red, alone, where one wall is missing.

Each weakening is a real one: another option of bubblewrap, another filter, a step of entering left
out. Where one thing follows from another (who shares the VM's network reaches its services), the
set of checks that must go red has more than one member, and never one too many. The tables are in
the other files here.
"""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.runtime.doctor.test_filters import FILTERS
from tests.sandbox.runtime.doctor.test_network import NETWORK
from tests.sandbox.runtime.doctor.test_steps import STEPS
from tests.sandbox.runtime.doctor.test_walls import OPTIONS
from tests.support.sandbox import Room
from tests.support.weak_sandbox import CHECKS, Vm, red


def test_a_whole_sandbox_is_all_green(vm: Vm, room: Room) -> None:
    assert red(vm, room) == {}


def test_every_check_goes_red_in_some_test() -> None:
    """The tables name every check; what a function's own test sees is found in its source."""
    seen = set(FILTERS)
    for table in (OPTIONS, STEPS, NETWORK):
        for _, names in table.values():
            seen |= names
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    names = {check.name for check in CHECKS}
    assert names - seen - {name for name in names if f'"{name}"' in sources} == set()
