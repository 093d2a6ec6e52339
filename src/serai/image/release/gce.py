"""What Compute Engine imports: disk.raw alone in a tar of GNU's old format, packed with gzip.

https://cloud.google.com/compute/docs/import/import-existing-image, "Requirements for the image
file": that name, that format, gzip, and a disk of whole GiB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from serai.image.release.source import Source
from serai.image.run import run

_NAME = "disk.raw"
_GIB = 1 << 30


def write(source: Source, target: Path) -> None:
    """Write ``target``; the same bytes for the same source.

    A disk that is not of whole GiB is grown, as any disk in a cloud is: its partition table still
    says where its second copy is, and cloud-init moves that when it grows the root.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        disk = Path(folder) / _NAME
        run(["cp", "--reflink=auto", "--sparse=always", source.raw, disk])
        with disk.open("r+b") as stream:
            stream.truncate(source.gibibytes * _GIB)
        disk.chmod(0o644)
        pack(disk, target, source.stamp)


def pack(disk: Path, target: Path, stamp: int) -> None:
    """Write ``disk``, a file called disk.raw, into the archive ``target``."""
    owned = ["--owner=root:0", "--group=root:0", "--mode=u=rw,go=r", f"--mtime=@{stamp}"]
    # A sparse member; which zeros are left out does not depend on the disk's file system.
    sparse = "--hole-detection=raw"
    packed = ["--use-compress-program=gzip -n", "--create"]
    options = ["--format=oldgnu", *owned, sparse, *packed]
    run(["tar", *options, "--file", target, "-C", disk.parent, _NAME])
