"""UEFI firmware for guests, where the distributions put it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.errors import BuildError
from serai.image.run import search_path


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
        hint=f"run 'make setup', or install the package {ARCHITECTURES[arch].firmware_package}",
    )


def _candidates(arch: Arch, root: Path) -> list[Firmware]:
    """The first that is whole wins: the distributions' come before QEMU's own."""
    architecture = ARCHITECTURES[arch]
    pairs = [Firmware(root / code, root / store) for code, store in architecture.firmware]
    found = shutil.which(architecture.emulator, path=search_path())
    if found is not None:
        share = root / Path(found).resolve().parents[1].relative_to("/") / "share" / "qemu"
        code, store = architecture.bundled_firmware
        pairs.append(Firmware(share / code, share / store))
    return pairs
