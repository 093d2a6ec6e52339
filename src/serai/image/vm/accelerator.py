"""Which accelerator really runs a guest on this host.

/dev/kvm can exist, open, and then hang or crash every guest. It can even run a guest of a few
instructions and stop at one that only a real firmware executes. So the choice is made by starting
the firmware that every guest starts with, and waiting for its first byte on the serial console.
The answer is remembered until the host boots again or QEMU changes.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from serai.image import cache, console
from serai.image.definition.arch import ARCHITECTURES, Arch, host
from serai.image.errors import BuildError
from serai.image.run import last_lines, run, started
from serai.image.settings import Settings
from serai.image.vm import firmware
from serai.image.vm.qemu import Accelerator, cpu

KVM = Path("/dev/kvm")
DEADLINE = 10.0  # seconds; a guest that works needs one
MEMORY = "accelerators.json"


def choose(arch: Arch, settings: Settings) -> Accelerator:
    """The fastest accelerator that runs ``arch`` guests here; decided within ``DEADLINE``.

    SERAI_ACCELERATOR overrides it for guests of the host's own architecture; a foreign
    architecture can only be emulated. Raises BuildError for an unknown override.
    """
    asked = settings.accelerator
    known: tuple[Accelerator, ...] = get_args(Accelerator)
    if asked and asked not in known:
        raise BuildError(
            f"{settings.called('accelerator')} is {asked!r}",
            hint=f"it can be one of {', '.join(known)}",
        )
    if arch != host():
        return "tcg"
    for accelerator in known:
        if accelerator == asked:
            return accelerator
    native: Accelerator = "hvf" if sys.platform == "darwin" else "kvm"
    if native == "kvm" and not KVM.exists():
        return "tcg"
    return _remembered(arch, native, settings.cache / MEMORY)


def works(arch: Arch, accelerator: Accelerator, deadline: float = DEADLINE) -> tuple[bool, str]:
    """Whether a guest's firmware starts, and if not, why. ``deadline`` is in seconds."""
    code, known = firmware.find(arch).code, ARCHITECTURES[arch]
    with tempfile.TemporaryDirectory(prefix="serai-") as directory:
        serial, log = Path(directory) / "serial", Path(directory) / "log"
        argv = [known.emulator, "-machine", f"{known.machine_type},accel={accelerator}"]
        argv += ["-cpu", cpu(arch, accelerator), "-m", "256", "-nodefaults", "-display", "none"]
        argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        argv += ["-serial", f"file:{serial}"]
        with started(argv, log=log, grace=0) as process:
            until = time.monotonic() + deadline
            while time.monotonic() < until:
                if serial.exists() and serial.stat().st_size:
                    return True, ""
                if process.poll() is not None:
                    return False, last_lines(log.read_text(errors="replace"), 1)
                time.sleep(0.02)
    return False, f"its firmware did not start within {deadline:g} s"


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
    version = run([ARCHITECTURES[arch].emulator, "--version"]).stdout.partition("\n")[0]
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
