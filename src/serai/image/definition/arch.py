"""The architectures of images, and what each is called by tools, firmware and the kernel."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

from serai.image.errors import BuildError

Arch = Literal["arm64", "amd64"]


@dataclass(frozen=True)
class Architecture:
    """``name`` is Debian's word, ``machine`` the kernel's (uname(1)).

    ``efi`` is the ending of EFI programs (UEFI 2.10, 3.5.1.1), ``grub`` GRUB's platform,
    ``elf_machine`` e_machine in an ELF file (elf(5)). ``firmware`` are pairs of code and variables
    where distributions have them, ``bundled_firmware`` the pair in QEMU's own share directory
    (Homebrew): both of a pair have the same flash layout. ``rom`` is firmware to be mapped without
    a store of variables, where Debian and Ubuntu, Fedora, and Arch have it.
    """

    name: Arch
    machine: str
    machine_type: str
    console: str
    efi: str
    grub: str
    elf_machine: int
    firmware_package: str
    firmware: tuple[tuple[str, str], ...]
    bundled_firmware: tuple[str, str]
    rom: tuple[str, ...]

    @property
    def emulator(self) -> str:
        """QEMU's program for whole VMs."""
        return f"qemu-system-{self.machine}"

    @property
    def user_emulator(self) -> str:
        """QEMU's program for single processes."""
        return f"qemu-{self.machine}-static"

    @property
    def triplet(self) -> str:
        """The name of the directory of its libraries."""
        return f"{self.machine}-linux-gnu"


ARCHITECTURES: dict[Arch, Architecture] = {
    "arm64": Architecture(
        name="arm64",
        machine="aarch64",
        machine_type="virt",
        console="ttyAMA0,115200",
        efi="aa64",
        grub="arm64-efi",
        elf_machine=0xB7,
        firmware_package="qemu-efi-aarch64",
        firmware=(("usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),),
        bundled_firmware=("edk2-aarch64-code.fd", "edk2-arm-vars.fd"),
        rom=(
            "usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            "usr/share/edk2/aarch64/QEMU_EFI.fd",
        ),
    ),
    "amd64": Architecture(
        name="amd64",
        machine="x86_64",
        machine_type="q35",
        console="ttyS0,115200",
        efi="x64",
        grub="x86_64-efi",
        elf_machine=0x3E,
        firmware_package="ovmf",
        firmware=(
            ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
        ),
        bundled_firmware=("edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
        rom=(
            "usr/share/ovmf/OVMF.fd",
            "usr/share/edk2/ovmf/OVMF_CODE.fd",
            "usr/share/edk2/x64/OVMF.4m.fd",
        ),
    ),
}


def host() -> Arch | None:
    """The build host's own architecture; None where no image has it."""
    machine = platform.machine()
    for name, architecture in ARCHITECTURES.items():
        if machine in (architecture.machine, name):  # macOS says arm64
            return name
    return None


def native() -> Arch:
    """The same; raises BuildError where no image has it."""
    if (found := host()) is None:
        known = " or ".join(each.machine for each in ARCHITECTURES.values())
        raise BuildError(f"this host is {platform.machine()}", hint=f"build on {known}")
    return found
