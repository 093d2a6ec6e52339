"""A base disk out of a package mirror: mmdebstrap(1) into a folder, the folder onto a disk.

A foreign architecture's programs run through qemu-user, by a handler that lives in a mount
namespace of its own. Everything that runs there also has a process namespace of its own, so that
no part of it outlives this process.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.image import console, digest
from serai.image.build import disk
from serai.image.definition.arch import ARCHITECTURES, Arch, native
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.run import run, tool
from serai.image.settings import Settings

_DATA = Path(__file__).parent / "data" / "bootstrap"
# The role base has it for an image; the build logs in to the base by it before.
_NETWORK = Path("roles/base/files/80-dhcp.network")

RECIPE = 4
"""Raise it when this module or disk.py makes another disk of the same inputs: stages are cached."""


# The start of an ELF file of that processor and which of its bits count: 64 bits, little-endian,
# executable or shared, e_machine (elf(5)); any ABI byte but what the kernel itself tells apart.
_MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\x{:02x}\x00"
_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"

QUIET = "quiet"  # kernel options beside the console


def inputs(image: Image, settings: Settings) -> dict[str, object]:
    """Everything that determines what ``make`` writes, but for the mirror's own state."""
    base = image.bootstrapped()
    return {
        "kind": base.kind,
        "suite": base.suite,
        "mirror": base.mirror,
        "security_mirror": base.security_mirror,
        "arch": image.arch,
        "size": image.disk.size,
        "packages": packages(image),
        "network": digest.of_file(settings.root / _NETWORK),
        "data": digest.of_tree(_DATA),
        "recipe": RECIPE,
    }


def packages(image: Image) -> list[str]:
    """The packages asked for by name, sorted."""
    lines = (_DATA / "packages.txt").read_text(encoding="utf-8").splitlines()
    common = {line.format(arch=image.arch) for line in lines if line and not line.startswith("#")}
    return sorted(common | set(image.bootstrapped().packages))


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
    base = image.bootstrapped()
    if base.mirror and not base.security_mirror and not base.mirror.startswith("deb "):
        console.warn(
            f"{image.name} is built without security updates: "
            f"{settings.called('security_mirror')} names no mirror of them. "
            "VMs get them from the sources that the image has."
        )
    for name in ("mmdebstrap", "sgdisk", "mformat", "mke2fs", "qemu-img", "unshare"):
        tool(name)
    identity = _identity(image, settings)
    with _scratch(target.parent) as scratch:
        root = scratch / "root"
        _install(image, root, settings, log)
        _configure(image, root, identity, settings)
        disk.assemble(
            root, target, arch=image.arch, size=image.disk.size, identity=identity, log=log
        )


def explain(said: str, image: Image, settings: Settings) -> BuildError | None:
    """What a failed bootstrap's output means to a person, where that can be told."""
    base = image.bootstrapped()
    mirror = f"the package mirror {base.mirror}" if base.mirror else "the package mirror"
    missing = re.search(r"^E: Unable to locate package (\S+)", said, re.MULTILINE)
    fetch = re.search(r"^E: Failed to fetch \S+\s+(.+)$", said, re.MULTILINE)
    if "No space left on device" in said or re.search(r"Write error - write \(28", said):
        return BuildError(
            f"the disk is full while {image.name} is bootstrapped",
            hint="free 4 GiB; 'invoke clean --cache' helps",
        )
    if scheme := re.search(r"/apt/methods/(\S+) could not be found|invalid mirror: (.*)", said):
        return BuildError(
            f"{mirror} is none: apt knows no {scheme[1] or scheme[2]!r}",
            hint="it begins with http://, https:// or file:// "
            f"(base.mirror, {settings.called('mirror')})",
        )
    if missing:
        return BuildError(
            f"{mirror} has no package {missing[1]} in {base.suite} for {image.arch}",
            hint="correct base.packages or base.suite",
        )
    if fetch or re.search(r"^E: The repository .* (does not have|is not signed)", said, re.M):
        reason = fetch[1] if fetch else f"it has no signed suite {base.suite}"
        return BuildError(
            f"{mirror} cannot be used: {reason.strip()}",
            hint=f"check the network and the mirrors ({settings.called('mirror')} and "
            f"{settings.called('security_mirror')}): "
            f"the first needs {base.suite} and {base.suite}-updates",
        )
    return None


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, even if what was killed in it takes a moment to die."""
    path = Path(tempfile.mkdtemp(prefix="root.", dir=folder))
    path.chmod(0o755)  # apt downloads as a user of its own
    try:
        yield path
    finally:
        deadline = time.monotonic() + 30
        while path.exists() and time.monotonic() < deadline:
            shutil.rmtree(path, ignore_errors=True)


def _install(image: Image, root: Path, settings: Settings, log: Path) -> None:
    start = log.stat().st_size if log.exists() else 0
    argv = _isolated(image.arch, _mmdebstrap(image, root, settings))
    try:
        run(argv, cwd=settings.root, env={"INITRD": "No"}, log=log)
    except BuildError as error:
        said = log.read_bytes()[start:].decode(errors="replace") if log.exists() else ""
        reason = explain(said, image, settings)
        if reason is None:
            raise BuildError(
                f"mmdebstrap could not make {image.name}: {_last_error(said) or error.message}",
                hint="the log has the package that failed",
                log=log,
            ) from None
        raise BuildError(reason.message, hint=reason.hint, log=log) from None


def _identity(image: Image, settings: Settings) -> disk.Identity:
    """That of the disk: by what it is made of, as images that share a base share all of it."""
    return disk.Identity.of(digest.of_value(inputs(image, settings)))


def _last_error(said: str) -> str:
    """The last thing dpkg or apt complained about, shortened: mmdebstrap quotes long commands."""
    lines = re.findall(r"^(?:E|dpkg): (.*error.*|.*fail.*)$", said, re.MULTILINE)
    return str(lines[-1])[:200] if lines else ""


def _mmdebstrap(image: Image, root: Path, settings: Settings) -> list[str]:
    base = image.bootstrapped()
    identity = _identity(image, settings)
    # systemd would make /boot/efi when it mounts it, which a slow first boot may not come to.
    fstab = f"mkdir -p $1/etc $1/boot/efi && printf '{disk.fstab(identity)}' > $1/etc/fstab"
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"]
    argv += [f"--architectures={image.arch}", "--include=" + ",".join(packages(image))]
    argv += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Retries "3"']
    argv += ['--aptopt=Acquire::http::Timeout "30"', '--aptopt=Acquire::https::Timeout "30"']
    # /usr merged from the start, instead of by the usrmerge package, which brings all of Perl.
    argv += ["--hook-directory=/usr/share/mmdebstrap/hooks/merged-usr"]
    triplet = "" if image.arch == native() else ARCHITECTURES[native()].triplet
    if triplet:
        argv += [f'--extract-hook={_DATA}/standins.sh on "$1" {triplet}']
    argv += [f'--essential-hook={_DATA}/essential.sh "$1"', f"--essential-hook={fstab}"]
    argv += [f'--customize-hook={_DATA}/finish.sh "$1"']
    if triplet:
        argv += [f'--customize-hook={_DATA}/standins.sh off "$1" {triplet}']
    if base.mirror:
        chosen = [base.suite, base.mirror, base.security_mirror]
        hook = shlex.join([f"{_DATA}/sources.sh", "$1", *chosen])
        argv += ["--setup-hook=" + hook.replace("'$1'", '"$1"')]
    return [*argv, base.suite, str(root)]


def _configure(image: Image, root: Path, identity: disk.Identity, settings: Settings) -> None:
    """What depends on the disk and the processor, and what mmdebstrap leaves behind."""
    options = f"console=tty0 console={ARCHITECTURES[image.arch].console} {QUIET}"
    kernels = sorted(path.name.removeprefix("vmlinuz-") for path in root.glob("boot/vmlinuz-*"))
    _write(root, "boot/grub/grub.cfg", disk.grub_cfg(identity, kernels[-1], options))
    _write(root, "etc/default/grub.d/50-serai.cfg", _grub_defaults(options))
    _write(root, f"etc/systemd/network/{_NETWORK.name}", (settings.root / _NETWORK).read_text())
    # Empty, not "uninitialized": that would make systemd apply its presets to every unit at the
    # first boot (machine-id(5)).
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
    if arch == native():
        return [*unshare, *argv]
    foreign = ARCHITECTURES[arch]
    qemu, magic = tool(foreign.user_emulator), _MAGIC.format(foreign.elf_machine)
    return [*unshare, f"{_DATA}/namespace.sh", str(qemu), magic, _MASK, *argv]
