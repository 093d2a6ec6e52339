"""An OVA: a virtual machine with its disk, as vSphere, VMware's desktops and VirtualBox import it.

The package and its descriptor are those of DMTF's DSP0243 1.1.0: a tar in the ustar format with the
descriptor first, then the manifest, then the files in the order in which the descriptor names them.
Where that leaves a choice, it is made by those who refuse the others:

- Disks are on NVMe, the bus that every image of ours starts from; hardware 13 (vSphere 6.5) is the
  first that has it. VirtualBox 7 reads it (its src/VBox/Main/xml/ovfreader.cpp).
- Sizes are in bytes and memory in MiB: VirtualBox reads no unit of the one, and few of the other.
- vSphere reads the firmware from ``vmw:Config``. VirtualBox does not, see docs/releases.md.
- No NVRAM is in it. Images that need one do not boot where it is left out
  (https://github.com/vmware/packer-examples-for-vsphere/issues/1045); ours have their loader where
  UEFI looks without one.
- The manifest has SHA256, as vSphere writes it since 6.5; SHA1 is all that DSP0243 1.1 knows.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

from serai.image import digest
from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.release import templates, vmdk
from serai.image.release.source import Source
from serai.image.vm import describe

_HARDWARE = "vmx-13"
_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_LARGEST = 8 << 30  # bytes of a file in a ustar


def system(image: Image) -> dict[str, str | int]:
    """The operating system: its number in CIM_OperatingSystem, VMware's name, and in words.

    VMware's names are the oldest that fit, as a host refuses one that is newer than itself
    (debian12_64Guest is known since 8.0.0.1). On arm64 there is none that all its hosts know.
    """
    known = {"debian": (96, "debian10_64Guest"), "ubuntu": (94, "ubuntu64Guest")}
    cim, vmware = known[image.distribution]
    words = f"{image.distribution.title()} {image.release}, {ARCHITECTURES[image.arch].machine}"
    return {"cim": cim, "vmware": vmware if image.arch == "amd64" else "", "words": words}


def descriptor(source: Source, disk: str, length: int) -> str:
    """The OVF descriptor; ``disk`` is the VMDK's name in the package, ``length`` its bytes."""
    return templates.render(
        "ovf.xml.j2",
        image=source.image,
        summary=source.definition.summary,
        version=source.version,
        disk=disk,
        disk_bytes=length,
        root_bytes=source.size,
        sessions_bytes=source.sessions,
        system=system(source.definition),
        hardware=_HARDWARE,
        format=_FORMAT,
        cpus=describe.CPUS,
        # vSphere takes multiples of 4 MiB only.
        memory_mib=describe.MEMORY // 4 * 4,
    )


def write(source: Source, target: Path) -> None:
    """Write ``target``; the same bytes for the same source."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        disk = Path(folder) / f"{source.image}.vmdk"
        vmdk.write(source, disk)
        length = disk.stat().st_size
        if length >= _LARGEST:
            raise BuildError(f"{disk.name} has {length} bytes, and an OVA's file less than 8 GiB")
        text = descriptor(source, disk.name, length).encode()
        sums = {
            f"{source.image}.ovf": hashlib.sha256(text).hexdigest(),
            disk.name: digest.of_file(disk),
        }
        manifest = "".join(f"SHA256({name})= {value}\n" for name, value in sums.items()).encode()
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in (("ovf", text), ("mf", manifest)):
                entry = _entry(f"{source.image}.{name}", len(content), source.stamp)
                tar.addfile(entry, io.BytesIO(content))
            with disk.open("rb") as stream:
                tar.addfile(_entry(disk.name, length, source.stamp), stream)


def _entry(name: str, size: int, stamp: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, stamp, 0o644
    return entry
