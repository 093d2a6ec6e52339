"""A base disk out of a package mirror: mmdebstrap(1) into a folder, the folder onto a disk.

A foreign architecture's programs run through qemu-user, by a handler that lives in a mount
namespace of its own. Everything that runs there also has a process namespace of its own, so that
no part of it outlives this process.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from pathlib import Path

from serai.image import disk
from serai.image.definition import Arch, BootstrapBase, Image
from serai.image.errors import BuildError
from serai.image.run import run, tool
from serai.image.settings import Settings

_DATA = Path(__file__).parent / "data" / "bootstrap"
_SOURCES = (Path(__file__), Path(disk.__file__))

_MACHINES: dict[str, Arch] = {"x86_64": "amd64", "aarch64": "arm64"}
_QEMU: dict[Arch, str] = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
# The start of an ELF file of that machine and which of its bits count: 64 bits, little-endian,
# executable or shared, e_machine (elf(5)); any ABI byte but what the kernel itself tells apart.
_ELF = {"amd64": r"\x3e\x00", "arm64": r"\xb7\x00"}
_MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00"
_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"

QUIET = "quiet"  # kernel options beside the console


def inputs(image: Image) -> dict[str, object]:
    """Everything that determines what ``make`` writes, but for the mirror's own state."""
    base = _base(image)
    return {
        "kind": base.kind,
        "suite": base.suite,
        "mirror": base.mirror,
        "arch": image.arch,
        "size": image.disk.size,
        "packages": packages(image),
        "sources": _digest(),
    }


def packages(image: Image) -> list[str]:
    """The packages asked for by name, sorted."""
    lines = (_DATA / "packages.txt").read_text(encoding="utf-8").splitlines()
    common = {line.format(arch=image.arch) for line in lines if line and not line.startswith("#")}
    return sorted(common | set(_base(image).packages))


def make(image: Image, settings: Settings, target: Path, *, log: Path) -> None:
    """Write a bootable disk for ``image`` to ``target``: qcow2, of ``image.disk.size``.

    Scratch data lies beside ``target`` while this runs. Needs root's rights.
    Raises BuildError if a tool is missing, the mirror cannot be used or the disk is full.
    """
    if os.geteuid() != 0:
        raise BuildError(
            f"the base of {image.name} is bootstrapped, which needs root's rights",
            hint="run the same command with sudo",
        )
    for name in ("mmdebstrap", "sgdisk", "mformat", "mke2fs", "qemu-img", "unshare"):
        tool(name)
    identity = disk.Identity.of(image.name)
    with tempfile.TemporaryDirectory(prefix="root.", dir=target.parent) as scratch:
        root = Path(scratch) / "root"
        _install(image, root, log)
        _configure(image, root, identity)
        disk.assemble(
            root, target, arch=image.arch, size=image.disk.size, identity=identity, log=log
        )


def _install(image: Image, root: Path, log: Path) -> None:
    run(_isolated(image.arch, _mmdebstrap(image, root)), env={"INITRD": "No"}, log=log)


def _mmdebstrap(image: Image, root: Path) -> list[str]:
    base = _base(image)
    fstab = f"mkdir -p $1/etc && printf '{disk.fstab(disk.Identity.of(image.name))}' > $1/etc/fstab"
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"]
    argv += [f"--architectures={image.arch}", "--include=" + ",".join(packages(image))]
    argv += ["--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Retries \"3\""]
    argv += [f"--essential-hook={_DATA}/essential.sh \"$1\""]
    argv += [f"--essential-hook={fstab}", f"--customize-hook={_DATA}/finish.sh \"$1\" {_DATA}/tree"]
    return [*argv, base.suite, str(root), *([base.mirror] if base.mirror else [])]


def _configure(image: Image, root: Path, identity: disk.Identity) -> None:
    """What depends on the disk and the machine, and what mmdebstrap leaves behind."""
    options = f"console=tty0 console={disk.CONSOLES[image.arch]} {QUIET}"
    kernels = sorted(path.name.removeprefix("vmlinuz-") for path in root.glob("boot/vmlinuz-*"))
    _write(root, "boot/grub/grub.cfg", disk.grub_cfg(identity, kernels[-1], options))
    _write(root, "etc/default/grub.d/50-serai.cfg", _grub_defaults(options))
    _write(root, "etc/machine-id", "")
    for left in ("etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/apt.conf.d/99mmdebstrap"):
        (root / left).unlink(missing_ok=True)


def _grub_defaults(options: str) -> str:
    return (
        "GRUB_TIMEOUT=0\n"
        "GRUB_TERMINAL=console\n"
        "GRUB_DISABLE_OS_PROBER=true\n"
        f'GRUB_CMDLINE_LINUX_DEFAULT="{options}"\n'
    )


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _isolated(arch: Arch, argv: list[str]) -> list[str]:
    """The command in namespaces that end with it, and able to run ``arch``'s programs."""
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork"]
    unshare += ["--kill-child", "--mount-proc", "--"]
    if arch == _MACHINES.get(platform.machine()):
        return [*unshare, *argv]
    qemu = tool(_QEMU[arch])
    elf = _ELF[arch]
    return [*unshare, f"{_DATA}/namespace.sh", str(qemu), _MAGIC + elf, _MASK, *argv]


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted([*_SOURCES, *(p for p in _DATA.rglob("*") if p.is_file())]):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _base(image: Image) -> BootstrapBase:
    if not isinstance(image.base, BootstrapBase):
        raise BuildError(f"{image.name}: base.kind is {image.base.kind!r}, not 'bootstrap'")
    return image.base
