"""Some of the programs of docs/programs.md, as `invoke programs` tries all of them."""

from __future__ import annotations

import pytest

from serai.common.sandboxes import SANDBOXES
from tests.support import programs
from tests.support.fake_vm import Vm

EVERYWHERE = {name: each for name, each in programs.programs().items() if each.always}


@pytest.fixture(params=SANDBOXES)
def made(vm: Vm, request: pytest.FixtureRequest) -> str:
    name: str = vm.call("create", name=request.param, sandbox=request.param)["name"]
    request.addfinalizer(lambda: vm.call("remove", name=name))
    return name


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_program_does_what_the_page_says(vm: Vm, made: str, name: str) -> None:
    program = EVERYWHERE[name]
    done = vm.serai("exec", made, "--", *programs.command(program.script))
    assert (done.returncode == 0) == (made not in program.red), done.stdout + done.stderr
