"""The accelerator is tried, not looked at; and tried once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image.definition.arch import Arch
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.vm import accelerator

FOREIGN: dict[str, Arch] = {"x86_64": "arm64", "aarch64": "amd64"}


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU whose guests do as the test says: no machine has a kvm that hangs on demand."""
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    monkeypatch.setattr("serai.image.run.search_path", lambda: f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    # /dev/kvm itself need not exist where this runs.
    monkeypatch.setattr(accelerator, "KVM", Path("/dev/null"))
    return program


STARTS = (
    'for word; do case $word in file:*) echo boots >"${word#file:}";; esac; done; exec sleep 600'
)


def _does(program: Path, what: str) -> None:
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo QEMU 1.0 && exit\n'
        f'echo tried >>"$0.tried"\n{what}\n'
    )
    program.chmod(0o755)


def _tries(program: Path) -> int:
    record = Path(f"{program}.tried")
    return len(record.read_text().splitlines()) if record.exists() else 0


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_firmware_starts_under_the_real_emulator(arch: Arch) -> None:
    assert accelerator.works(arch, "tcg", 60) == (True, "")


def test_a_guest_that_hangs_is_given_up(qemu: Path) -> None:
    _does(qemu, "exec sleep 600")
    good, seen = accelerator.works("amd64", "kvm", 0.3)
    assert not good
    assert "did not start within 0.3 s" in seen


def test_a_guest_that_stops_at_an_instruction_does_not_work(qemu: Path) -> None:
    """As nested KVM does: QEMU reports an internal error and stays, with the guest stopped."""
    _does(qemu, "echo 'KVM internal error. Suberror: 1' >&2; exec sleep 600")
    assert not accelerator.works("amd64", "kvm", 0.3)[0]


def test_a_guest_that_ends_otherwise_does_not_work(qemu: Path) -> None:
    _does(qemu, "echo 'Could not access KVM kernel module' >&2; exit 1")
    assert accelerator.works("amd64", "kvm") == (False, "Could not access KVM kernel module")


@pytest.mark.parametrize(
    ("does", "chosen"), [(STARTS, "kvm"), ("exit 0", "tcg"), ("exit 134", "tcg")]
)
def test_the_answer_is_remembered(does: str, chosen: str, qemu: Path, checkout: Settings) -> None:
    _does(qemu, does)
    memory = checkout.cache / accelerator.MEMORY
    assert accelerator.choose("amd64", checkout) == chosen
    remembered = memory.read_text()
    assert accelerator.choose("amd64", checkout) == chosen
    assert _tries(qemu) == 1, (remembered, memory.read_text())


def test_another_boot_of_the_host_tries_again(
    qemu: Path, checkout: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _does(qemu, STARTS)
    accelerator.choose("amd64", checkout)
    monkeypatch.setattr(accelerator, "_boot_id", lambda: "another")
    accelerator.choose("amd64", checkout)
    assert _tries(qemu) == 2
    # What older boots have found is not kept for ever.
    assert len(json.loads((checkout.cache / accelerator.MEMORY).read_text())) == 1


@pytest.mark.parametrize("nonsense", ["", "[1]", "{", '{"a": 1}'])
def test_a_spoilt_memory_is_made_anew(nonsense: str, qemu: Path, checkout: Settings) -> None:
    _does(qemu, STARTS)
    checkout.cache.mkdir()
    (checkout.cache / accelerator.MEMORY).write_text(nonsense)
    assert accelerator.choose("amd64", checkout) == "kvm"


def test_the_override_is_not_tried(qemu: Path, checkout: Settings) -> None:
    _does(qemu, "exit 1")
    assert accelerator.choose("amd64", replace(checkout, accelerator="kvm")) == "kvm"
    assert _tries(qemu) == 0


def test_an_unknown_override_is_refused(checkout: Settings) -> None:
    with pytest.raises(BuildError, match="SERAI_ACCELERATOR is 'xen'; it can be one of kvm, hvf"):
        accelerator.choose("amd64", replace(checkout, accelerator="xen"))


@pytest.mark.parametrize("host", sorted(FOREIGN))
def test_a_foreign_architecture_is_emulated_at_once(
    host: str, checkout: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: host)
    monkeypatch.setattr(accelerator, "works", None)  # calling it would fail
    assert accelerator.choose(FOREIGN[host], replace(checkout, accelerator="kvm")) == "tcg"
