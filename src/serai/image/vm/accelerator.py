"""Which accelerator really runs a guest on this machine.

/dev/kvm can exist, open, and then hang or crash every guest, so the choice is made by starting the
smallest guest there is, a firmware of a few instructions that switches the machine off, with a
deadline. The answer is remembered until the host boots again or QEMU changes.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import get_args

from serai.image import cache, console
from serai.image.definition.definition import Arch
from serai.image.errors import BuildError
from serai.image.run import last_lines, run
from serai.image.settings import Settings
from serai.image.vm.qemu import MACHINES, PROGRAMS, Accelerator, cpu

KVM = Path("/dev/kvm")
DEADLINE = 5.0  # seconds; a guest that works needs a tenth of one
_FIRMWARE_SIZE = 64 * 1024  # the smallest that QEMU maps for x86
_HOST_ARCHES: dict[str, Arch] = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "amd64"}

# mov $0x2a,%al; out %al,$0xf4; hlt; jmp .  - at the reset vector, 16 bytes below the end.
# isa-debug-exit ends QEMU with the status (value << 1) | 1, which nothing else does.
_AMD64 = bytes.fromhex("b02ae6f4f4ebfd")
_AMD64_STATUS = 0x2A << 1 | 1
# movz w0,#0x0008; movk w0,#0x8400,lsl #16; hvc #0; b .  - PSCI's SYSTEM_OFF (Arm DEN 0022).
_ARM64 = b"".join(
    word.to_bytes(4, "little") for word in (0x52800100, 0x72B08000, 0xD4000002, 0x14000000)
)


def choose(arch: Arch, settings: Settings) -> Accelerator:
    """The fastest accelerator that runs ``arch`` guests here; decided within 10 s.

    SERAI_ACCELERATOR overrides it for guests of the host's own architecture; a foreign
    architecture can only be emulated. Raises BuildError for an unknown override.
    """
    asked = settings.accelerator
    known: tuple[Accelerator, ...] = get_args(Accelerator)
    if asked and asked not in known:
        raise BuildError(
            f"SERAI_ACCELERATOR is {asked!r}", hint=f"it can be one of {', '.join(known)}"
        )
    if arch != _HOST_ARCHES.get(platform.machine()):
        return "tcg"
    for accelerator in known:
        if accelerator == asked:
            return accelerator
    native: Accelerator = "hvf" if sys.platform == "darwin" else "kvm"
    if native == "kvm" and not KVM.exists():
        return "tcg"
    return _remembered(arch, native, settings.cache / "accelerator.json")


def works(arch: Arch, accelerator: Accelerator, deadline: float = DEADLINE) -> tuple[bool, str]:
    """Whether a guest runs, and if not, what was seen. ``deadline`` is in seconds."""
    with tempfile.TemporaryDirectory(prefix="serai-") as folder:
        firmware = Path(folder) / "firmware"
        firmware.write_bytes(_firmware(arch))
        argv = [PROGRAMS[arch], "-machine", f"{MACHINES[arch]},accel={accelerator}"]
        argv += ["-cpu", cpu(arch, accelerator), "-m", "64", "-nodefaults", "-display", "none"]
        argv += ["-bios", str(firmware)]
        if arch == "amd64":
            argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        try:
            done = run(argv, timeout=deadline, check=False)
        except BuildError as error:
            return False, error.message
    if done.returncode == (_AMD64_STATUS if arch == "amd64" else 0):
        return True, ""
    return False, last_lines(done.stderr, 1)


def _remembered(arch: Arch, native: Accelerator, memory: Path) -> Accelerator:
    key = _key(arch)
    known = _read(memory)
    if known.get(key) not in (native, "tcg"):
        good, seen = works(arch, native)
        if not good:
            console.warn(f"{native} is there, but runs no guest ({seen}); emulating, much slower")
        known[key] = native if good else "tcg"
        boot = _boot_id()
        _write(memory, {key: value for key, value in known.items() if key.startswith(boot)})
    return native if known[key] == native else "tcg"


def _key(arch: Arch) -> str:
    version = run([PROGRAMS[arch], "--version"]).stdout.partition("\n")[0]
    return f"{_boot_id()} {arch} {version}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.release()  # not Linux: the kernel's version must do


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}  # nothing known, or nonsense: try again
    return known if isinstance(known, dict) else {}


def _write(memory: Path, known: dict[str, str]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    cache.write(memory, json.dumps(known, indent=1) + "\n")


def _firmware(arch: Arch) -> bytes:
    if arch == "arm64":
        return _ARM64.ljust(_FIRMWARE_SIZE, b"\0")
    halt = b"\xf4" * (_FIRMWARE_SIZE - 16)
    return halt + _AMD64.ljust(16, b"\xf4")
