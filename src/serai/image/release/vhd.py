"""A fixed VHD, as Azure takes it: the raw disk, and a footer of 512 bytes.

Azure wants a virtual size of whole MiB, and refuses what qemu-img makes by default, because that
rounds the size up to whole cylinders
(https://learn.microsoft.com/azure/virtual-machines/linux/create-upload-generic, "Resizing VHDs").
The footer is that of Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from serai.image.errors import BuildError
from serai.image.release.source import Source, convert

_OPTIONS = ("subformat=fixed", "force_size=on")
_MIB = 1 << 20
_COOKIE = b"conectix"
_FIXED = 2
_NOWHERE = (1 << 64) - 1  # a fixed disk has no header that the footer could point to
_EPOCH = 946684800  # 2000-01-01 00:00 UTC, from which the footer counts
_LENGTH = 512  # bytes
# Cookie, features, version; data offset, time stamp; creator's program, version and system;
# original size, current size, geometry; type, checksum, identity, whether its state is saved.
_LAYOUT = struct.Struct(">8sIIQI4sI4sQQIII16sB427x")
_CHECKSUM = slice(64, 68)


@dataclass(frozen=True)
class Footer:
    """The fields of a VHD's footer, in their order."""

    cookie: bytes
    features: int
    version: int
    offset: int
    stamp: int
    creator: bytes
    creator_version: int
    creator_system: bytes
    original: int
    current: int
    geometry: int
    kind: int
    checksum: int
    identity: bytes
    saved: int

    def packed(self) -> bytes:
        """The footer's bytes, with the checksum that they must have."""
        values = list(vars(self).values())
        text = bytearray(_LAYOUT.pack(*values))
        text[_CHECKSUM] = struct.pack(">I", checksum(bytes(text)))
        return bytes(text)


def footer(text: bytes) -> Footer:
    """The footer that ``text``, 512 bytes, is."""
    return Footer(*_LAYOUT.unpack(text))


def checksum(text: bytes) -> int:
    """The one's complement of the sum of the footer's bytes, but for the checksum's own four."""
    return ~(sum(text) - sum(text[_CHECKSUM])) & 0xFFFFFFFF


def write(source: Source, target: Path) -> None:
    """Write ``target``; the same bytes for the same source.

    Raises BuildError if it is not what Azure takes, for example because of the disk's size.
    """
    convert(source, "vpc", _OPTIONS, target)
    with target.open("r+b") as stream:
        stream.seek(-_LENGTH, os.SEEK_END)
        made = footer(stream.read(_LENGTH))
        # In place of the time and of a random number.
        stamp = max(source.stamp - _EPOCH, 0)
        stream.seek(-_LENGTH, os.SEEK_END)
        stream.write(replace(made, stamp=stamp, identity=source.identity.bytes).packed())
    require(target)


def require(path: Path) -> None:
    """Raise BuildError, saying why, unless ``path`` is a VHD that Azure takes."""
    size = path.stat().st_size - _LENGTH
    if size < _MIB:
        raise _wrong(path, "it is too short")
    with path.open("rb") as stream:
        stream.seek(size)
        text = stream.read(_LENGTH)
    found = footer(text)
    if found.cookie != _COOKIE:
        raise _wrong(path, "it has no footer")
    if found.checksum != checksum(text):
        raise _wrong(path, "its footer's checksum is wrong")
    if (found.kind, found.offset) != (_FIXED, _NOWHERE):
        raise _wrong(path, f"its type is {found.kind}, and a fixed one's is {_FIXED}")
    if found.current != size:
        raise _wrong(path, f"its footer speaks of {found.current} bytes, and there are {size}")
    if size % _MIB:
        raise _wrong(path, f"its size is {size} bytes, and must be whole MiB")


def _wrong(path: Path, why: str) -> BuildError:
    return BuildError(f"{path.name} is no VHD that Azure takes: {why}")
