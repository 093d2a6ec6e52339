"""A guest's description and the QEMU command line it stands for.

Nothing here does I/O, but that an emulator is asked for its version.

`invoke boot`, `invoke verify-image` and Packer all run the same VM from this one source.
The options are those of qemu-system(1).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.definition.definition import Image, megabytes
from serai.image.run import run, tool
from serai.image.vm.firmware import Firmware

Accelerator = Literal["kvm", "hvf", "tcg"]
Bus = Literal["nvme", "virtio"]
Format = Literal["qcow2", "raw"]
Option = tuple[str, str]

_QUICK_STRINGS = 10  # the first QEMU that moves strings quickly

# The disks' serial numbers: /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_<serial> or virtio-<serial> in the
# guest. Kernel names such as nvme0n1 may swap from one boot to the next.
ROOT_SERIAL = "root"
SESSIONS_SERIAL = "sessions"


@dataclass(frozen=True)
class Drive:
    """A disk of the guest."""

    file: Path
    serial: str
    format: Format = "qcow2"


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest finds by ``tag``: by 9p, or by virtiofs.

    ``socket`` is virtiofsd's; only 9p can be ``read_only``.
    """

    tag: str
    folder: Path
    read_only: bool = False
    virtiofs: bool = False
    socket: Path | None = None


@dataclass(frozen=True)
class Guest:
    """A VM.

    The first of ``disks`` is booted. ``ssh_port`` is the port on the host's 127.0.0.1 that leads
    to the guest's ssh; 0 lets the kernel choose a free one. ``seed`` is a NoCloud disk image,
    ``seed_url`` a NoCloud seed's address told through SMBIOS. What the serial port says goes to
    ``serial_log``; ``serial_socket`` and ``qmp_socket`` are Unix sockets to talk to it and to QEMU.
    """

    name: str
    arch: Arch
    accelerator: Accelerator
    firmware: Firmware
    disks: tuple[Drive, ...]
    cpus: int = 2
    memory_mib: int = 2048
    bus: Bus = "nvme"
    ssh_port: int | str = 0
    seed: Path | None = None
    seed_url: str = ""
    serial_log: Path | None = None
    serial_socket: Path | None = None
    qmp_socket: Path | None = None
    shares: tuple[Share, ...] = ()


def command(guest: Guest) -> list[str]:
    """The whole command line that runs ``guest``."""
    words = [word for option in options(guest) for word in option if word]
    return [ARCHITECTURES[guest.arch].emulator, *words]


def packer_args(
    image: Image,
    *,
    accelerator: Accelerator,
    firmware: Firmware,
    serial_log: Path | None = None,
    qmp_socket: Path | None = None,
    bus: Bus | None = None,
) -> list[list[str]]:
    """The same VM as ``qemuargs`` of Packer's qemu builder.

    An option named in ``qemuargs`` replaces all of Packer's own uses of it, so every drive, device
    and the network are named here, in the builder's template variables. The second disk is the
    one that ``disk_additional_size`` makes.
    """
    made = Path("{{ .OutputDir }}")
    guest = Guest(
        name=image.name,
        arch=image.arch,
        accelerator=accelerator,
        firmware=firmware,
        disks=(
            Drive(made / "{{ .Name }}", ROOT_SERIAL),
            Drive(made / "{{ .Name }}-1", SESSIONS_SERIAL),
        ),
        cpus=image.machine.cpus,
        memory_mib=megabytes(image.machine.memory),
        bus=bus or image.disk.bus,
        ssh_port="{{ .SSHHostPort }}",
        seed_url="http://{{ .HTTPIP }}:{{ .HTTPPort }}/",
        serial_log=serial_log,
        qmp_socket=qmp_socket,
    )
    return [[word for word in option if word] for option in options(guest)]


def options(guest: Guest) -> list[Option]:
    """The VM as pairs of an option and its value."""
    return [
        ("-name", _escaped(guest.name)),
        # Without QEMU's own serial ports, CD and floppy drives and graphics, the firmware and the
        # kernel have less to find.
        ("-nodefaults", ""),
        ("-display", "none"),
        ("-machine", f"{ARCHITECTURES[guest.arch].machine_type}{_memory_backend(guest)}"),
        ("-accel", _accel(guest.accelerator)),
        ("-cpu", cpu(guest.arch, guest.accelerator)),
        ("-smp", str(guest.cpus)),
        ("-m", str(guest.memory_mib)),
        ("-boot", "strict=off"),
        *_firmware(guest.firmware),
        *_disks(guest),
        *_seed(guest),
        *_network(guest),
        *_shares(guest),
        ("-device", "virtio-rng-pci"),
        *_console(guest),
    ]


def cpu(arch: Arch, accelerator: Accelerator) -> str:
    """The processor model: the host's own, or all that the emulator can do without being slow."""
    if accelerator != "tcg":
        return "host"
    if arch == "arm64":
        # Pointer authentication, even with QEMU's own quick cipher, and wide vectors take a fifth
        # of the processor's time of a boot.
        return "max,pauth=off,sve=off"
    # What costs an emulator more than it gives: strings that it moves byte by byte, five levels of
    # page tables, a flush of all translations where protection keys change, a switch around each
    # access to a user's memory, and KVM, which the guest would load. QEMU 10 moves several bytes at
    # a time, and there Linux 6.1 without erms finds no timer and hangs.
    strings = "" if _major(ARCHITECTURES[arch].emulator) >= _QUICK_STRINGS else "erms=off,"
    return f"max,{strings}la57=off,pku=off,smap=off,svm=off"


@functools.cache
def _major(emulator: str) -> int:
    """The first number of the emulator's version; 0 if it tells none."""
    said = run([tool(emulator), "--version"]).stdout
    found = re.search(r"version (\d+)", said)
    return int(found[1]) if found else 0


def _accel(accelerator: Accelerator) -> str:
    # MiB of translated code. QEMU's own 1 GiB takes a boot's whole code, also of programs that have
    # ended, and each piece costs 0.1 ms when the guest uses its memory for something else.
    return "tcg,tb-size=256" if accelerator == "tcg" else accelerator


def _firmware(firmware: Firmware) -> list[Option]:
    # The variables start blank and are thrown away: an image must boot on a VM that has
    # never seen it.
    return [
        ("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escaped(firmware.code)}"),
        ("-drive", f"if=pflash,unit=1,format=raw,snapshot=on,file={_escaped(firmware.vars)}"),
    ]


def _disks(guest: Guest) -> list[Option]:
    model = {"nvme": "nvme", "virtio": "virtio-blk-pci"}[guest.bus]
    found: list[Option] = []
    for number, drive in enumerate(guest.disks):
        # cache=unsafe: a disk of a guest that is thrown away, or sealed and synced as a whole
        # afterwards, need not survive a power cut of the host.
        found.append(
            (
                "-drive",
                f"if=none,id={drive.serial},format={drive.format},cache=unsafe,discard=unmap,"
                f"file={_escaped(drive.file)}",
            )
        )
        boot = ",bootindex=0" if number == 0 else ""
        found.append(("-device", f"{model},drive={drive.serial},serial={drive.serial}{boot}"))
    return found


def _seed(guest: Guest) -> list[Option]:
    found: list[Option] = []
    if guest.seed is not None:
        found += [
            ("-drive", f"if=none,id=seed,format=raw,readonly=on,file={_escaped(guest.seed)}"),
            ("-device", "virtio-blk-pci,drive=seed,serial=seed"),
        ]
    if guest.seed_url:
        # Debian 12's cloud-init takes an address only after ds=nocloud-net, Ubuntu's after both.
        found.append(("-smbios", f"type=1,serial=ds=nocloud-net;s={_escaped(guest.seed_url)}"))
    return found


def _network(guest: Guest) -> list[Option]:
    return [
        ("-netdev", f"user,id=user.0,hostfwd=tcp:127.0.0.1:{guest.ssh_port}-:22"),
        # romfile=: without the network boot code there is nothing to wait for.
        ("-device", "virtio-net-pci,netdev=user.0,romfile="),
    ]


def _shares(guest: Guest) -> list[Option]:
    found: list[Option] = []
    if _memory_backend(guest):
        memory = f"memory-backend-memfd,id=ram,size={guest.memory_mib}M,share=on"
        found.append(("-object", memory))
    for number, share in enumerate(guest.shares):
        name = f"share{number}"
        if share.socket is not None:
            found += [
                ("-chardev", f"socket,id={name},path={_escaped(share.socket)}"),
                ("-device", f"vhost-user-fs-pci,chardev={name},tag={share.tag}"),
            ]
        else:
            # none: files are this user's own, with the modes that the guest gives them and real
            # symlinks, so that they are of use to people here. What only root may do fails quietly
            # (a chown) unless QEMU runs as root. remap: inode numbers stay unique below the
            # folder, whatever is mounted there.
            readonly = ",readonly=on" if share.read_only else ""
            found += [
                (
                    "-fsdev",
                    f"local,id={name},path={_escaped(share.folder)},security_model=none,"
                    f"multidevs=remap{readonly}",
                ),
                ("-device", f"virtio-9p-pci,fsdev={name},mount_tag={share.tag}"),
            ]
    return found


def _memory_backend(guest: Guest) -> str:
    # virtiofsd reads and writes the guest's memory.
    return ",memory-backend=ram" if any(each.socket for each in guest.shares) else ""


def _console(guest: Guest) -> list[Option]:
    found: list[Option] = []
    log = "" if guest.serial_log is None else _escaped(guest.serial_log)
    if guest.serial_socket is not None:
        logged = f",logfile={log},logappend=on" if log else ""
        found += [_socket("serial", guest.serial_socket, logged), ("-serial", "chardev:serial")]
    elif log:
        found += [
            ("-chardev", f"file,id=serial,path={log},append=on"),
            ("-serial", "chardev:serial"),
        ]
    if guest.qmp_socket is not None:
        found += [_socket("qmp", guest.qmp_socket), ("-mon", "chardev=qmp,mode=control")]
    return found


def _socket(name: str, path: Path, more: str = "") -> Option:
    return "-chardev", f"socket,id={name},path={_escaped(path)},server=on,wait=off{more}"


def _escaped(value: Path | str) -> str:
    """A value inside an option: QEMU reads ',,' as a comma that separates nothing."""
    return str(value).replace(",", ",,")
