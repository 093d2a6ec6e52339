"""What a disk lacks to start where a format is for, and to let somebody in there.

A bootstrapped base is made for QEMU: its initramfs has the drivers of a list, and cloud-init asks
the sources of another one. A cloud image brings what every cloud needs, and has no such lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serai.image.errors import BuildError
from serai.image.offline import RootFs

_DRIVERS = "/usr/share/initramfs-tools/modules.d/serai"
_SOURCES = "/etc/cloud/cloud.cfg.d/90_serai.cfg"


@dataclass(frozen=True)
class Needs:
    """What a host needs of a disk: a driver, and that cloud-init asks it; ``name`` is the host's.

    No ``source`` is needed where a seed can be attached as a disk.
    """

    name: str
    driver: str
    source: str = ""


HOSTS = {
    "ami": Needs("EC2", "nvme", "Ec2"),
    "azure": Needs("Azure", "hv_storvsc", "Azure"),
    "gce": Needs("Compute Engine", "virtio_scsi", "GCE"),
    "ova": Needs("vSphere and VirtualBox", "nvme"),
    "vagrant": Needs("libvirt", "virtio_blk"),
    "vhdx": Needs("Hyper-V", "hv_storvsc"),
}


def read(root: RootFs) -> tuple[str, str]:
    """The lists of the disk, '' for one that it does not have."""
    return _text(root, _DRIVERS), _text(root, _SOURCES)


def lacks(kinds: Sequence[str], drivers: str, sources: str) -> list[str]:
    """A line for each reason why the disk is of no use where one of ``kinds`` is for."""
    there = set(re.findall(r"^(\w+)$", drivers, re.MULTILINE))
    listed = re.search(r"^datasource_list: \[(.*)\]$", sources, re.MULTILINE)
    asked = set(listed[1].split(", ")) if listed else set()
    found = []
    for kind in kinds:
        if (host := HOSTS.get(kind)) is None:
            continue
        if there and host.driver not in there:
            found.append(f"{kind}: it does not start on {host.name}: no {host.driver} in initramfs")
        if asked and host.source and host.source not in asked:
            found.append(f"{kind}: nobody can log in on {host.name}: cloud-init does not ask it")
    return found


def _text(root: RootFs, path: str) -> str:
    try:
        return root.read(path)
    except BuildError:
        return ""
