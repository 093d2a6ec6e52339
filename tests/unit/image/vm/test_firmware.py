"""Firmware is found where distributions put it, in whole pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.errors import BuildError
from serai.image.vm import firmware

OVMF = Path("usr/share/OVMF")


def _put(root: Path, *names: str) -> None:
    (root / OVMF).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / OVMF / name).touch()


@pytest.mark.parametrize(("arch", "package"), [("amd64", "ovmf"), ("arm64", "qemu-efi-aarch64")])
def test_none_names_the_package(arch: Arch, package: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"no UEFI firmware for {arch}.*package {package}$"):
        firmware.find(arch, tmp_path)


def test_the_larger_flash_comes_first(tmp_path: Path) -> None:
    _put(tmp_path, "OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    assert firmware.find("amd64", tmp_path).code.name == "OVMF_CODE_4M.fd"


def test_half_a_pair_is_passed_over(tmp_path: Path) -> None:
    _put(tmp_path, "OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE_4M.fd")
    found = firmware.find("amd64", tmp_path)
    assert (found.code.name, found.vars.name) == ("OVMF_CODE.fd", "OVMF_VARS.fd")


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_homebrew_has_it_beside_the_emulator(
    arch: Arch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/opt/homebrew/bin has a link to …/Cellar/qemu/VERSION/bin. Not run on a Mac."""
    known = ARCHITECTURES[arch]
    cellar, programs = tmp_path / "opt/homebrew/Cellar/qemu/10.1.0", tmp_path / "opt/homebrew/bin"
    for path in ("bin/" + known.emulator, *(f"share/qemu/{x}" for x in known.bundled_firmware)):
        (cellar / path).parent.mkdir(parents=True, exist_ok=True)
        (cellar / path).touch(mode=0o755)
    programs.mkdir(parents=True)
    (programs / known.emulator).symlink_to(cellar / "bin" / known.emulator)
    monkeypatch.setattr(firmware, "search_path", lambda: str(programs))
    monkeypatch.setitem(ARCHITECTURES, arch, dataclasses.replace(known, firmware=()))
    found = firmware.find(arch)
    assert [found.code, found.vars] == [cellar / "share/qemu" / x for x in known.bundled_firmware]


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_this_machine_has_both(arch: Arch) -> None:
    found = firmware.find(arch)
    # QEMU refuses a code and a variable store that do not fill its flash together.
    assert found.code.stat().st_size > 1024**2
    assert found.vars.stat().st_size > 0
