"""Read an ext4 through debugfs(8): names level by level, then each inode's content once.

Inodes are read by their numbers. A name is told in memory only: on the disk of a hostile guest it
can be any bytes, and lead anywhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from serai.image.errors import BuildError
from serai.image.offline import RootFs

# A shorter link's target is in the inode itself (kernel, Documentation/filesystems/ext4).
_IN_INODE = 60
_ROOT = 2  # the root directory's number, by the format
_BATCH = 256 << 20  # bytes of files that are copied out of a disk at a time
_PART = 1 << 20  # bytes that are read at a time
_LONGEST_LINK = 4096  # bytes: PATH_MAX, which the kernel holds to
_DEEPEST = 1000  # levels of directories; the kernel walks no longer path


@dataclass(frozen=True)
class Inode:
    """What a directory tells of one of its names; ``size`` is the inode's."""

    number: int
    mode: int
    owner: int
    group: int
    name: str
    size: int


class Reader:
    """Reads a root file system; scratch files lie in ``scratch``.

    Every method raises BuildError where the disk does not tell what it must.
    """

    def __init__(self, root: RootFs, scratch: Path) -> None:
        self.root, self.scratch = root, scratch

    def inodes(self) -> dict[str, Inode]:
        """What there is, by path from the root, which is '.' itself.

        Each directory is listed once, wherever else it is linked: also into itself. Files that
        say to hold more than the disk has bytes are refused, as they would fill ours with zeros.
        """
        paths: dict[str, Inode] = {}
        seen: set[int] = set()
        level = {_ROOT: "."}
        for _ in range(_DEEPEST):
            seen |= level.keys()
            found = self._list(level)
            paths |= found
            level = {
                inode.number: path
                for path, inode in found.items()
                if stat.S_ISDIR(inode.mode) and inode.number not in seen
            }
            if not level:
                break
        else:
            raise self._fault(f"its directories are deeper than {_DEEPEST}")
        self._require_possible(paths.values())
        return paths

    def contents(self, inodes: Sequence[Inode]) -> Iterator[tuple[Inode, Iterator[bytes]]]:
        """Each inode with what it holds, in parts that must be taken before the next one's."""
        for batch in _batches(inodes):
            yield from self._contents(batch)

    def copy(self, wanted: Mapping[str, Path]) -> None:
        """Copy regular files, by their path from the root, to files of ours."""
        found = self._find({path.strip("/") for path in wanted})
        inodes = [found.get(path.strip("/")) for path in wanted]
        regular = [each for each in inodes if each is not None and stat.S_ISREG(each.mode)]
        if len(regular) < len(wanted):
            missing = [path for path in wanted if path.strip("/") not in found]
            raise self._fault(f"{(missing or sorted(wanted))[0]!a} is not a file that is there")
        self._require_possible(regular)
        for target, (_, parts) in zip(wanted.values(), self.contents(regular), strict=True):
            with target.open("wb") as file:
                file.writelines(parts)

    def _find(self, wanted: Collection[str]) -> dict[str, Inode]:
        """Those of ``wanted`` that are there, by path. No link is followed."""
        above = {os.fspath(each) for path in wanted for each in PurePosixPath(path).parents}
        found: dict[str, Inode] = {}
        level = {_ROOT: "."}
        while level:
            listed = self._list(level)
            found |= {path: inode for path, inode in listed.items() if path in wanted}
            level = {
                inode.number: path
                for path, inode in listed.items()
                if path in above and path != "." and stat.S_ISDIR(inode.mode)
            }
        return found

    def targets(self, links: Sequence[Inode]) -> dict[int, str]:
        """Where symbolic links lead, by the number of the inode."""
        if any(inode.size > _LONGEST_LINK for inode in links):
            raise self._fault("a link is longer than any path")
        long = [inode for inode in links if inode.size >= _IN_INODE]
        found = {inode.number: os.fsdecode(b"".join(parts)) for inode, parts in self.contents(long)}
        short = [inode for inode in links if inode.size < _IN_INODE]
        told = self._answer(f"stat <{inode.number}>\n" for inode in short).read_bytes()
        marker = b'Fast link dest: "'
        end = 0
        for inode in short:  # in the order asked for
            start = told.find(marker, end) + len(marker)
            end = start + inode.size
            if start < len(marker) or told[end : end + 2] != b'"\n':
                raise self._fault(f"the target of {inode.name!r} is not told")
            found[inode.number] = os.fsdecode(told[start:end])
        return found

    def attributes(self, files: Sequence[Inode], name: str) -> dict[int, str]:
        """The extended attribute ``name`` of those that have it, in hexadecimal, by number."""
        told = self.root.ask(f"ea_get -x <{inode.number}> {name}\n" for inode in files)
        answers = re.findall(
            r"^debugfs: ea_get -x <(\d+)> .*\n(?!debugfs: ).*= ([0-9a-f ]+)$",
            told.stdout,
            re.MULTILINE,
        )
        return {int(number): value.replace(" ", "") for number, value in answers}

    def _list(self, directories: dict[int, str]) -> dict[str, Inode]:
        """What is in ``directories``, by path; the root's own entry is in it as '.'."""
        told = self._answer(f"ls -p <{number}>\n" for number in directories).read_bytes()
        found: dict[str, Inode] = {}
        for number, names in _listings(told, directories):
            for inode in names:
                if inode.name == "." and number == _ROOT:
                    found["."] = inode
                elif inode.name not in (".", ".."):
                    path = directories[number]
                    found[inode.name if path == "." else f"{path}/{inode.name}"] = inode
        return found

    def _require_possible(self, inodes: Iterable[Inode]) -> None:
        sizes = {inode.number: inode.size for inode in inodes if stat.S_ISREG(inode.mode)}
        if (total := sum(sizes.values())) > self.root.size:
            text = f"its files hold {total >> 20} MiB, on a disk of {self.root.size >> 20}"
            raise self._fault(text)

    def _contents(self, inodes: Sequence[Inode]) -> Iterator[tuple[Inode, Iterator[bytes]]]:
        commands = (f"cat <{inode.number}>\n" for inode in inodes)
        # What debugfs says besides is small: an echo for each, and complaints.
        largest = sum(inode.size for inode in inodes) + _BATCH
        with self._answer(commands, largest).open("rb") as stream:
            stream.readline()  # the program's name and version
            for inode in inodes:
                echo = b"debugfs: cat <%d>\n" % inode.number
                if stream.read(len(echo)) != echo:
                    raise self._fault(f"{inode.name!r} cannot be read")
                yield inode, parts(stream, inode.size)

    def _answer(self, commands: Iterable[str], largest: int = _BATCH) -> Path:
        log = self.scratch / "answer"
        log.unlink(missing_ok=True)
        self.root.ask(commands, log=log, largest=largest)
        return log

    def _fault(self, text: str) -> BuildError:
        return BuildError(f"{self.root.name}'s root cannot be read: {text}")


def _listings(told: bytes, directories: Iterable[int]) -> Iterator[tuple[int, list[Inode]]]:
    """What ``ls -p`` said: /inode/mode/owner/group/name/size/, the directory's own entry first.

    A name can hold all but a slash, line ends too; so slashes are what it is split by.
    """
    told_of: defaultdict[int, list[Inode]] = defaultdict(list)
    parts = told.split(b"/")
    directory = 0
    try:
        for start in range(1, len(parts) - 1, 7):
            number, mode, owner, group, name, size = parts[start : start + 6]
            inode = Inode(
                _number(number, 32),
                _number(mode, 16, base=8),
                _number(owner, 32),
                _number(group, 32),
                os.fsdecode(name),
                _number(size or b"0", 64),
            )
            if inode.name == ".":
                directory = inode.number
            if inode.number:  # 0 is an entry without a name: a block's checksum, or room
                told_of[directory].append(inode)
    except ValueError:
        raise BuildError("the directories of the disk cannot be read") from None
    for asked in directories:
        if asked not in told_of:
            raise BuildError(f"the directory with inode {asked} of the disk cannot be read")
        yield asked, told_of[asked]


def _number(told: bytes, bits: int, base: int = 10) -> int:
    """A number that fits into so many bits; raises ValueError."""
    number = int(told, base)
    if not 0 <= number < 1 << bits:
        raise ValueError
    return number


def parts(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of ``stream``, or what there is of them."""
    while part := stream.read(min(size, _PART)):
        size -= len(part)
        yield part


def _batches(inodes: Iterable[Inode]) -> Iterator[list[Inode]]:
    batch: list[Inode] = []
    size = 0
    for inode in inodes:
        if batch and size + inode.size > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(inode)
        size += inode.size
    yield batch
