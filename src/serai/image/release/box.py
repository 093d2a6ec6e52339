"""A box for Vagrant's provider libvirt: a tar with the disk and two small texts.

The form is version 1 of vagrant-libvirt's (its docs/boxes.markdown): box.img, metadata.json with
the disk's size in GiB, and a Vagrantfile of defaults. Vagrant 2.4 reads the architecture, too
(https://developer.hashicorp.com/vagrant/docs/boxes/format). The second disk is made by the
Vagrantfile, since version 2 of the form, with several disks, is called experimental.

Most boxes let Vagrant's insecure key in. Ours has no user at all, so that a box that somebody
forgets is no open door: a seed of cloud-init says who may log in, as everywhere.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import megabytes
from serai.image.release import templates
from serai.image.release.source import Source
from serai.image.vm import describe, qemu

_MIB_IN_GIB = 1024


def metadata(source: Source) -> str:
    """The text of metadata.json."""
    content = {
        "architecture": source.definition.arch,
        "format": "qcow2",
        "provider": "libvirt",
        "virtual_size": source.gibibytes,
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def vagrantfile(source: Source) -> str:
    """The text of the box's Vagrantfile."""
    disk = source.definition.disk
    architecture = ARCHITECTURES[source.definition.arch]
    return templates.render(
        "Vagrantfile.j2",
        image=source.image,
        cpus=describe.CPUS,
        memory_mib=describe.MEMORY,
        machine=architecture.machine_type,
        machine_arch=architecture.machine,
        root_gib=max(source.gibibytes, _gibibytes(megabytes(disk.size))),
        sessions_gib=_gibibytes(megabytes(disk.sessions)),
        sessions_serial=qemu.SESSIONS_SERIAL,
        loaders=[f"/{path}" for path in architecture.rom],
    )


def write(source: Source, target: Path) -> None:
    """Write ``target``; the same bytes for the same source."""
    small = {"metadata.json": metadata(source), "Vagrantfile": vagrantfile(source)}
    with (
        target.open("wb") as file,
        # The disk is compressed already. No name and no time of now are in the header.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=source.stamp) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, text in small.items():
            content = text.encode()
            tar.addfile(_entry(name, len(content), source.stamp), io.BytesIO(content))
        with source.disk.open("rb") as stream:
            tar.addfile(_entry("box.img", source.disk.stat().st_size, source.stamp), stream)


def _gibibytes(mebibytes: int) -> int:
    return -(-mebibytes // _MIB_IN_GIB)


def _entry(name: str, size: int, stamp: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, stamp, 0o644
    return entry
