"""Spares of the files that SQLite makes beside the registry at every start and removes at the end.

They take an inode each, of which sessions may have taken all if there are no quotas. Blocks are no
concern: some are root's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def take(registry: Path) -> None:
    """Before SQLite opens ``registry``: let it find the files, if there are spares."""
    for file, spare in _beside(registry):
        with suppress(OSError):
            os.link(spare, file)  # unlike rename, in nothing's place
        with suppress(OSError):
            # Also of one that was killed in between: what is written to the file is in its spare.
            if spare.stat().st_nlink > 1:
                spare.unlink()


def make(registry: Path) -> None:
    """Have them for the next start, if there are any inodes now."""
    for _, spare in _beside(registry):
        with suppress(OSError):
            spare.touch(mode=0o600)


def _beside(registry: Path) -> Iterator[tuple[Path, Path]]:
    for end in ("-wal", "-shm"):
        yield Path(f"{registry}{end}"), Path(f"{registry}{end}-spare")
