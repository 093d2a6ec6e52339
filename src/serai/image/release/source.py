"""What a release's formats are made from, and the shell that they share."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.image.definition.definition import Image, megabytes
from serai.image.run import run_confined

_GIB = 1 << 30


@dataclass(frozen=True)
class Source:
    """A finished disk: ``<image>.qcow2``, and the same as a sparse raw file.

    ``version`` is what it is called where a format has a place for that, ``stamp`` the time in
    seconds since 1970 likewise. ``definition`` is the image's, as it was built.
    """

    definition: Image
    version: str
    stamp: int
    disk: Path
    raw: Path

    @property
    def image(self) -> str:
        """The image's name."""
        return self.definition.name

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.raw.stat().st_size

    @property
    def gibibytes(self) -> int:
        """The disk's size in GiB, rounded up: some take only whole ones."""
        return -(-self.size // _GIB)

    @property
    def sessions(self) -> int:
        """Bytes of the blank second disk, which becomes /sessions."""
        return megabytes(self.definition.disk.sessions) << 20

    @property
    def identity(self) -> uuid.UUID:
        """A UUID for where a format wants one: the same for the same image and version."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"https://serai.invalid/{self.image}/{self.version}")

    @property
    def short_identity(self) -> str:
        """The same as eight hexadecimal digits."""
        return hashlib.sha256(self.identity.bytes).hexdigest()[:8]


def convert(source: Source, kind: str, options: Sequence[str], target: Path) -> None:
    """Write ``target`` with qemu-img(1), in its format ``kind`` with these ``options``."""
    argv = ["qemu-img", "convert", "-f", "raw", "-O", kind, "-o", ",".join(options)]
    run_confined(
        [*argv, source.raw, target],
        read=[source.raw],
        write=[target.parent],
        largest=2 * source.size,
    )
