"""Read a finished disk without booting it: debugfs(8) on its root file system, as any user.

What is on it is a guest's: the programs that read it are confined (run.py), and no name from it is
a path of ours.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serai.image import qcow2
from serai.image.errors import BuildError
from serai.image.run import last_lines, run_confined

_SECTOR = 512  # bytes; QEMU's disks have no other unless asked for
_ROOT, _ESP = 1, 15  # the partitions' numbers, as the cloud images have them
_ANSWER = 256 << 20  # bytes that debugfs may say where it is not asked for files


@dataclass(frozen=True)
class RootFs:
    """The root file system inside a raw disk; offsets are bytes from the start of the disk.

    ``esp`` is where the EFI system partition begins, None where there is none; ``name`` is the
    disk's for messages.
    """

    name: str
    raw: Path
    offset: int
    esp: int | None

    def read(self, path: str) -> str:
        """The text of the file at ``path``; raises BuildError if there is none."""
        done = run_confined(["debugfs", "-R", f"cat {path}", self._device], read=[self.raw])
        if not done.stdout:  # debugfs ends with 0 whatever happened
            raise BuildError(f"{path} cannot be read from the disk: {last_lines(done.stderr)}")
        return done.stdout

    def ask(
        self,
        commands: Iterable[str],
        *,
        log: Path | None = None,
        largest: int = _ANSWER,
    ) -> subprocess.CompletedProcess[str]:
        """What debugfs says to ``commands``, one a line; each is echoed before its answer.

        With ``log`` the answer is appended there byte by byte: names need not be text. A path that
        is not there is a line on stderr and no failure. ``largest`` is how many bytes to ``log``.

        Raises BuildError if there is no ext4.
        """
        done = run_confined(
            ["debugfs", "-f", "-", self._device],
            read=[self.raw],
            largest=largest,
            stdin="".join(commands),
            log=log,
            check=False,
        )
        if done.returncode != 0:
            said = _begin(log) if log else done.stderr
            first = said.partition("while trying to open")[0]
            raise BuildError(f"{self.name}'s root cannot be read: {last_lines(first)}")
        return done

    def used(self) -> int:
        """How many bytes of the file system are in use, as df(1) counts them."""
        # Not dumpe2fs(8), which knows no offset since e2fsprogs 1.47.2.
        told = self.ask(["stats -h\n"]).stdout
        fields = dict(re.findall(r"^([A-Z][a-z ]+): +(\d+)$", told, re.MULTILINE))
        try:
            overhead = int(fields.get("Overhead clusters", "0"))
            blocks = int(fields["Block count"]) - int(fields["Free blocks"]) - overhead
            return blocks * int(fields["Block size"])
        except KeyError as missing:
            raise BuildError(f"{self.name}'s root tells no {missing}") from None

    @property
    def size(self) -> int:
        """Bytes that the whole disk has: nothing on it can hold more."""
        return self.raw.stat().st_size

    @property
    def _device(self) -> str:
        return f"{self.raw}?offset={self.offset}"


@contextmanager
def opened(disk: Path, scratch: Path) -> Iterator[RootFs]:
    """The root file system of the qcow2 ``disk``, through a sparse raw copy below ``scratch``.

    Raises BuildError if it is another format, or needs a second file.
    """
    source = disk.resolve()
    qcow2.require_alone(source)
    scratch.mkdir(parents=True, exist_ok=True)  # it may be a cache that nothing was put in yet
    with tempfile.TemporaryDirectory(dir=scratch.resolve()) as folder:
        raw = Path(folder) / "disk.raw"
        run_confined(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, raw],
            read=[source],
            write=[raw.parent],
            largest=qcow2.size(source),
        )
        offset = _offset(raw, _ROOT)
        if offset is None:
            raise BuildError(f"{disk.name} has no partition {_ROOT}")
        yield RootFs(disk.name, raw, offset, _offset(raw, _ESP))


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


def _offset(raw: Path, partition: int) -> int | None:
    argv = ["sgdisk", f"--info={partition}", str(raw)]
    told = run_confined(argv, read=[raw], check=False).stdout
    first = re.search(r"^First sector: (\d{1,15})\b", told, re.MULTILINE)
    return int(first[1]) * _SECTOR if first else None


def _begin(log: Path) -> str:
    with log.open(errors="replace") as stream:
        return stream.read(1 << 16)


def _is_field(line: str) -> bool:
    return ": " in line and not line.startswith(" ")
