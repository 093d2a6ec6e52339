"""A stream-optimised VMDK, as vSphere and VirtualBox import it.

The format is VMware's "Virtual Disk Format 5.0". ESXi refuses such a file unless it says that it
has version 3, as qemu-img does since 2.5.1 (https://github.com/glennmatthews/cot/issues/65). The
options are those of Fedora CoreOS, whose images run there: an adapter that ESXi has, where
qemu-img's default is IDE, and a hardware version above 4 (coreos-assembler, src/cosalib/ova.py).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from serai.image.errors import BuildError
from serai.image.release.source import Source, convert

_OPTIONS = ("adapter_type=lsilogic", "subformat=streamOptimized", "compat6")
_SECTOR = 512  # bytes
_VERSION = 3
# Magic, version, flags, capacity, grain size, and where the descriptor begins and ends, in sectors.
_HEADER = struct.Struct("<4sIIQQQQ")


def write(source: Source, target: Path) -> None:
    """Write ``target``; the same bytes for the same source."""
    convert(source, "vmdk", _OPTIONS, target)
    settle(target, source.short_identity.encode("ascii"))


def settle(path: Path, content: bytes) -> None:
    """Put ``content``, eight digits, in place of qemu-img's random content ID.

    Raises BuildError if this is no stream-optimised VMDK that ESXi takes.
    """
    with path.open("r+b") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise _wrong(path, "it has no header")
        magic, version, _, _, _, start, length = _HEADER.unpack(header)
        if magic != b"KDMV":
            raise _wrong(path, "it has no header")
        if version != _VERSION:
            raise _wrong(path, f"it says that it has version {version}, not {_VERSION}")
        stream.seek(start * _SECTOR)
        room = length * _SECTOR
        descriptor = stream.read(room).rstrip(b"\0")
        # qemu-img leaves out leading zeros.
        settled, found = re.subn(rb"(?m)^CID=[0-9a-f]{1,8}$", b"CID=" + content, descriptor)
        if found != 1 or b'createType="streamOptimized"' not in descriptor or len(settled) > room:
            raise _wrong(path, "its descriptor is not that of a stream")
        stream.seek(start * _SECTOR)
        stream.write(settled.ljust(room, b"\0"))


def _wrong(path: Path, why: str) -> BuildError:
    return BuildError(f"{path.name} is no VMDK that ESXi takes: {why}")
