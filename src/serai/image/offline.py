"""Read a finished disk without booting it: debugfs(8) on its root file system, as any user."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serai.image.errors import BuildError
from serai.image.run import last_lines, run, tool

_SECTOR = 512  # bytes; QEMU's disks have no other unless asked for


@dataclass(frozen=True)
class RootFs:
    """The root file system inside a raw disk."""

    raw: Path
    offset: int  # bytes from the start of the disk

    def read(self, path: str) -> str:
        """The text of the file at ``path``; raises BuildError if there is none."""
        device = f"{self.raw}?offset={self.offset}"
        done = run([tool("debugfs"), "-R", f"cat {path}", device])
        if not done.stdout:  # debugfs ends with 0 whatever happened
            raise BuildError(f"{path} cannot be read from the disk: {last_lines(done.stderr)}")
        return done.stdout


@contextmanager
def opened(disk: Path, scratch: Path) -> Iterator[RootFs]:
    """The root file system of the qcow2 ``disk``, through a sparse raw copy below ``scratch``."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        raw = Path(folder) / "disk.raw"
        run([tool("qemu-img"), "convert", "-O", "raw", disk, raw])
        yield RootFs(raw, _root_offset(raw))


def packages(status: str) -> list[str]:
    """'name version architecture' of every installed package, sorted, from dpkg's status file."""
    return sorted(
        f"{fields['Package']} {fields['Version']} {fields['Architecture']}"
        for fields in _installed(status)
    )


def installed_sizes(status: str) -> dict[tuple[str, str], int]:
    """Bytes that every installed package takes, by name and architecture, of the same file.

    It is the estimate of the package's maker in KiB (Installed-Size, deb-control(5)), 0 without.
    """
    return {
        (fields["Package"], fields["Architecture"]): int(fields.get("Installed-Size", "0")) << 10
        for fields in _installed(status)
    }


def _installed(status: str) -> Iterator[dict[str, str]]:
    """The fields of every installed package, as far as they fit on one line."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if _is_field(line))
        if fields.get("Status", "").endswith(" installed"):
            yield fields


def _root_offset(raw: Path) -> int:
    told = run(["sgdisk", "--info=1", raw], check=False).stdout
    first = re.search(r"^First sector: (\d+)", told, re.MULTILINE)
    if first is None:
        raise BuildError(f"{raw.name} has no partition 1")
    return int(first[1]) * _SECTOR


def _is_field(line: str) -> bool:
    return ": " in line and not line.startswith(" ")
