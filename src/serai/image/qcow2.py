"""The header of a qcow2: what QEMU would open besides the file itself.

It is looked at before QEMU or qemu-img is: both open the files that a header names, which in a
hostile one is any file of the host (CVE-2024-4467). A disk's format is never found out by its
content, since of a raw disk the guest writes all of it, a qcow2's header too.
"""

from __future__ import annotations

import struct
from pathlib import Path

from serai.image.errors import BuildError

LARGEST = 1 << 40
"""Bytes of a virtual disk beyond which it is refused."""

# docs/interop/qcow2.txt in QEMU: magic, version, backing file's offset and length, cluster bits,
# size, encryption; then, in version 3 at byte 72, the incompatible features.
_HEADER = struct.Struct(">4sIQIIQI")
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_EXTERNAL_DATA = 1 << 2


def fault(header: bytes) -> str:
    """What is wrong with the first 80 bytes of a qcow2; '' if nothing is."""
    if len(header) < _FEATURES_AT + _FEATURES.size or not header.startswith(b"QFI\xfb"):
        return "is not a qcow2"
    _, version, backing, _, _, size, encryption = _HEADER.unpack_from(header)
    (features,) = _FEATURES.unpack_from(header, _FEATURES_AT)
    if version not in (2, 3):
        return f"is a qcow2 of the unknown version {version}"
    if backing:
        return "has a backing file, which could be any file of this host"
    if version == 3 and features & _EXTERNAL_DATA:  # noqa: PLR2004
        return "keeps its data in another file, which could be any file of this host"
    if size > LARGEST:
        return f"is a disk of {size >> 30} GiB, more than {LARGEST >> 30}"
    return "is encrypted" if encryption else ""


def fault_of(path: Path) -> str:
    """The same of the file at ``path``."""
    with path.open("rb") as stream:
        return fault(stream.read(_FEATURES_AT + _FEATURES.size))


def require_alone(path: Path, hint: str = "") -> None:
    """Raise BuildError unless ``path`` is a qcow2 that names no other file."""
    try:
        found = fault_of(path)
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from None
    if found:
        raise BuildError(f"{path} {found}", hint=hint)


def size(path: Path) -> int:
    """How many bytes the virtual disk of a qcow2 has."""
    with path.open("rb") as stream:
        return int(_HEADER.unpack(stream.read(_HEADER.size))[5])
