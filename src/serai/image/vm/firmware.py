"""UEFI firmware for guests, where the distributions put it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from serai.image.definition.definition import Arch
from serai.image.errors import BuildError
from serai.image.run import search_path

PACKAGES: dict[Arch, str] = {"arm64": "qemu-efi-aarch64", "amd64": "ovmf"}

# Code and variables belong together: both of a pair have the same flash layout. The first pair
# that is whole wins. Debian and Ubuntu come first, then QEMU's own share folder (Homebrew).
_DISTRIBUTIONS: dict[Arch, list[tuple[str, str]]] = {
    "arm64": [
        ("usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
    ],
    "amd64": [
        ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    ],
}
_BUNDLED: dict[Arch, tuple[str, str, str]] = {
    "arm64": ("qemu-system-aarch64", "edk2-aarch64-code.fd", "edk2-arm-vars.fd"),
    "amd64": ("qemu-system-x86_64", "edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
}


@dataclass(frozen=True)
class Firmware:
    """``code`` is the firmware itself, ``vars`` a blank store for its variables; both read-only."""

    code: Path
    vars: Path


def find(arch: Arch, root: Path = Path("/")) -> Firmware:
    """The firmware for ``arch`` below ``root``; raises BuildError naming the package it is in."""
    for firmware in _candidates(arch, root):
        if firmware.code.is_file() and firmware.vars.is_file():
            return firmware
    raise BuildError(
        f"there is no UEFI firmware for {arch} guests",
        hint=f"run 'make setup', or install the package {PACKAGES[arch]}",
    )


def _candidates(arch: Arch, root: Path) -> list[Firmware]:
    pairs = [Firmware(root / code, root / store) for code, store in _DISTRIBUTIONS[arch]]
    emulator, code, store = _BUNDLED[arch]
    found = shutil.which(emulator, path=search_path())
    if found is not None:
        share = root / Path(found).resolve().parents[1].relative_to("/") / "share" / "qemu"
        pairs.append(Firmware(share / code, share / store))
    return pairs
