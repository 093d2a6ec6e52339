"""A bootable GPT disk out of a folder that holds a root file system.

No loop device, mount or kernel support for vfat is needed: sgdisk(8) writes the table, mtools(1)
the EFI system partition (ESP), ``mke2fs -d`` the root. Needs root's rights only to read the folder.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.definition.definition import Size, megabytes
from serai.image.errors import BuildError
from serai.image.run import run

SECTOR = 512
ESP_FIRST, ESP_LAST = 2048, 204799  # sectors, as the reference's images
ROOT_FIRST = 206848
GPT_TAIL = 33  # sectors at the end that hold the second table
ALIGNMENT = 2048  # sectors
LABEL = "root"

_MKE2FS_CONF = Path(__file__).parent / "data" / "bootstrap" / "mke2fs.conf"


@dataclass(frozen=True)
class Identity:
    """What tells a disk's file systems from another's: the root's UUID and the ESP's serial."""

    root: uuid.UUID

    @classmethod
    def of(cls, name: str) -> Identity:
        """The same for the same ``name``, so that a base can be built again alike."""
        return cls(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.serai.invalid"))

    @property
    def esp(self) -> str:
        """The ESP's volume serial, eight hexadecimal digits."""
        return self.root.hex[:8].upper()


def fstab(identity: Identity) -> str:
    """/etc/fstab; by UUID because a disk's name differs between virtio and NVMe."""
    serial = f"{identity.esp[:4]}-{identity.esp[4:]}"
    return (
        f"UUID={identity.root} / ext4 errors=remount-ro 0 1\n"
        # No running VM needs it, and where a busy host emulates one, systemd may find it too
        # late: then the boot would end in emergency mode (systemd.mount(5)).
        f"UUID={serial} /boot/efi vfat umask=0077,nofail 0 0\n"
    )


def esp_grub_cfg(identity: Identity) -> str:
    """EFI/debian/grub.cfg, where the signed GRUB looks first: go on with the root's own."""
    return (
        f"search.fs_uuid {identity.root} root\n"
        "set prefix=($root)/boot/grub\n"
        "configfile $prefix/grub.cfg\n"
    )


def grub_cfg(identity: Identity, version: str, options: str) -> str:
    """The first /boot/grub/grub.cfg; update-grub cannot run before the VM has booted."""
    return (
        "# Written with the base; update-grub replaces it.\n"
        f"search --no-floppy --fs-uuid --set=root {identity.root}\n"
        f"linux /boot/vmlinuz-{version} root=UUID={identity.root} ro {options}\n"
        f"initrd /boot/initrd.img-{version}\n"
        "boot\n"
    )


def assemble(
    root: Path, target: Path, *, arch: Arch, size: Size, identity: Identity, log: Path
) -> None:
    """Write the folder ``root`` as a bootable qcow2 disk of ``size`` to ``target``.

    The scratch disk lies beside ``target`` and is removed. Raises BuildError if the folder does not
    fit or a tool is missing.
    """
    raw = target.with_suffix(".raw")
    try:
        _table(raw, size, log)
        _esp(raw, root, arch, identity, log)
        _root(raw, root, size, identity, log)
        argv = ["qemu-img", "convert", "-c", "-W", "-m", "8", "-f", "raw", "-O", "qcow2"]
        run([*argv, "-o", "compression_type=zstd", raw, target], log=log)
    finally:
        raw.unlink(missing_ok=True)


def _table(raw: Path, size: Size, log: Path) -> None:
    raw.unlink(missing_ok=True)
    with raw.open("wb") as stream:
        stream.truncate(megabytes(size) << 20)
    argv = ["sgdisk", "--set-alignment=1", f"--new=15:{ESP_FIRST}:{ESP_LAST}", "--typecode=15:ef00"]
    argv += [f"--new=1:{ROOT_FIRST}:{_root_last(size)}", "--typecode=1:8300"]
    run([*argv, str(raw)], log=log)


def _root_last(size: Size) -> int:
    """The root's last sector: the largest that leaves room for the table and is aligned."""
    sectors = (megabytes(size) << 20) // SECTOR - GPT_TAIL
    return sectors // ALIGNMENT * ALIGNMENT - 1


def _esp(raw: Path, root: Path, arch: Arch, identity: Identity, log: Path) -> None:
    efi, platform = ARCHITECTURES[arch].efi, ARCHITECTURES[arch].grub
    shim = root / f"usr/lib/shim/shim{efi}.efi.signed"
    grub = root / f"usr/lib/grub/{platform}-signed/grub{efi}.efi.signed"
    manager = root / f"usr/lib/shim/mm{efi}.efi.signed"
    for path in (shim, grub, manager):
        if not path.is_file():
            raise BuildError(f"the base has no /{path.relative_to(root)}", log=log)
    drive = f"{raw}@@{ESP_FIRST * SECTOR}"
    sectors = ESP_LAST - ESP_FIRST + 1
    geometry = ["-T", str(sectors), "-h", "255", "-s", "63", "-H", str(ESP_FIRST)]
    run(["mformat", "-i", drive, *geometry, "-v", "ESP", "-N", identity.esp, "::"], log=log)
    # mformat leaves a partition table in the boot sector, which GRUB takes for one inside the ESP.
    with raw.open("r+b") as stream:
        stream.seek(ESP_FIRST * SECTOR + 0x1BE)
        stream.write(bytes(64))
    run(["mmd", "-i", drive, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"], log=log)
    config = raw.with_suffix(".grub.cfg")
    try:
        config.write_text(esp_grub_cfg(identity), encoding="ascii")
        for source, name in (
            # What firmware looks for on a disk it has no boot entry for (UEFI 2.10, 3.5.1.1).
            (shim, f"BOOT/BOOT{efi.upper()}.EFI"),
            (grub, f"BOOT/grub{efi}.efi"),
            (manager, f"BOOT/mm{efi}.efi"),
            (config, "debian/grub.cfg"),
        ):
            run(["mcopy", "-i", drive, source, f"::/EFI/{name}"], log=log)
    finally:
        config.unlink(missing_ok=True)


def _root(raw: Path, root: Path, size: Size, identity: Identity, log: Path) -> None:
    kib = (_root_last(size) - ROOT_FIRST + 1) * SECTOR // 1024
    extended = f"offset={ROOT_FIRST * SECTOR},lazy_itable_init=0,hash_seed={identity.root}"
    argv = ["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-U", str(identity.root), "-E", extended]
    argv += ["-d", str(root), "-F", str(raw), f"{kib}k"]
    start = log.stat().st_size if log.exists() else 0
    try:
        run(argv, env={"MKE2FS_CONFIG": str(_MKE2FS_CONF)}, log=log)
    except BuildError:
        # mke2fs says "Could not allocate block" or "ext2_inode table" for its own lack of room.
        if b"Could not allocate" in log.read_bytes()[start:]:
            raise BuildError(
                f"the root file system does not fit on a disk of {size}",
                hint="raise disk.size",
                log=log,
            ) from None
        raise
