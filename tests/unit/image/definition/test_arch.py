"""One table of the architectures: what the host is, and that no other module has a copy."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from serai.image.definition import arch
from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.errors import BuildError
from serai.image.run import PACKAGES
from tests.conftest import ROOT

IMAGE = ROOT / "src/serai/image"


def test_every_architecture_of_a_definition_is_in_the_table() -> None:
    assert set(ARCHITECTURES) == set(get_args(Arch))
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())


@pytest.mark.parametrize(
    ("machine", "found"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("arm64", "arm64")]
)
def test_the_kernels_word_says_what_the_host_is(
    machine: str, found: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert arch.host() == arch.native() == found


def test_on_a_host_of_another_architecture_nothing_is_native(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert arch.host() is None
    with pytest.raises(BuildError, match="this host is riscv64; build on aarch64 or x86_64"):
        arch.native()


def test_the_packages_of_its_emulators_are_known() -> None:
    for each in ARCHITECTURES.values():
        assert {each.emulator, each.user_emulator} <= set(PACKAGES)


def test_no_other_module_of_the_build_host_names_a_kernels_architecture() -> None:
    """But for the packages of tools, and programs that run in the VM alone."""
    machines = re.compile("|".join(each.machine for each in ARCHITECTURES.values()))
    naming = {
        str(path.relative_to(IMAGE))
        for path in IMAGE.rglob("*.py")
        if "guest" not in path.relative_to(IMAGE).parts and machines.search(path.read_text())
    }
    assert naming == {"definition/arch.py", "run.py"}
