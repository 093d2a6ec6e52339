"""The file manifest: what is in a root file system, a line a path, read without booting it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from serai.common import files
from serai.image import cache, ext4, offline
from serai.image.errors import BuildError
from serai.image.run import Argument, run, run_confined, tool

CAPABILITY = "security.capability"
"""The extended attribute with a file's capabilities (capabilities(7))."""

_ESP = "boot/efi"
_ESP_MODE = 0o700  # what fstab(5) gives everything there: umask=0077
_TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFBLK: "b",
    stat.S_IFCHR: "c",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
_MTOOLS = 300.0  # seconds for all of an EFI system partition
_MANIFEST = 256 << 20  # bytes that one may have, unpacked


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a root file system.

    ``path`` is relative to /, which is '.' itself; what is no UTF-8 in it is a surrogate (PEP 383).
    ``type`` is a letter as in find(1): f d l c b p s. ``mode`` has the permission bits, setuid,
    setgid and sticky among them. ``size`` is in bytes, 0 but for a regular file. ``digest`` is the
    SHA-256 of a regular file, a link's target, and '' otherwise. ``capabilities`` is the attribute
    security.capability in hexadecimal, '' where there is none.
    """

    path: str
    type: str
    mode: int
    owner: int
    group: int
    size: int = 0
    digest: str = ""
    capabilities: str = ""


_COLUMNS = tuple(field.name for field in fields(Entry))


def of_disk(disk: Path, work: Path) -> list[Entry]:
    """What is on the root and the EFI system partition of ``disk``, sorted by path.

    Scratch copies lie below ``work`` and are removed. Raises BuildError if it cannot be read.
    """
    with offline.opened(disk, work) as root:
        return of_root(root, work)


def of_root(root: offline.RootFs, work: Path) -> list[Entry]:
    """The same of an opened disk."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        scratch = Path(folder)
        return _sort([*_of_disk(ext4.Reader(root, scratch)), *_esp(root, scratch)])


def of_folder(root: Path) -> list[Entry]:
    """What is in the folder ``root``, sorted by path; raises BuildError where it is not readable.

    What is mounted there is left out, but for its mount point.
    """
    try:
        return _sort(_of_folder(os.fsencode(root)))
    except OSError as error:
        raise BuildError(f"{root} cannot be read: {error.strerror}: {error.filename!r}") from None


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write ``entries`` as tab-separated values, zstd-compressed where the name ends in .zst.

    The same entries are the same bytes. ``path`` appears whole or not at all.
    """
    lines = ["\t".join(_COLUMNS)]
    for entry in _sort(entries):
        numbers = f"{entry.mode:04o}", str(entry.owner), str(entry.group), str(entry.size)
        values = entry.path, entry.type, *numbers, entry.digest, entry.capabilities
        lines.append("\t".join(escape(value) for value in values))
    text = "\n".join(lines) + "\n"
    if path.suffix != ".zst":
        cache.write(path, text)
        return
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        plain, packed = Path(folder) / "tsv", Path(folder) / "zst"
        plain.write_text(text, encoding="utf-8")
        # One thread: how many there are would change the bytes.
        run([tool("zstd"), "-q", "-10", "--single-thread", plain, "-o", packed])
        packed.chmod(0o644)
        files.fsync(packed)
        packed.replace(path)
    files.fsync(path.parent)


def load(path: Path) -> list[Entry]:
    """What ``write`` wrote; raises BuildError if that is not what ``path`` holds."""
    try:
        if path.suffix == ".zst":
            text = run([tool("zstd"), "-dcq", path], captured=_MANIFEST).stdout
        else:
            text = path.read_text(encoding="utf-8")
        header, *lines, end = text.split("\n")
        if header != "\t".join(_COLUMNS) or end:
            raise ValueError("the first or the last line is not a manifest's")
        return [_entry(line) for line in lines]
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} is no file manifest: {error}") from None


def _entry(line: str) -> Entry:
    path, kind, mode, owner, group, size, digest, capabilities = line.split("\t")
    return Entry(
        path=_plain(path),
        type=kind,
        mode=int(mode, 8),
        owner=int(owner),
        group=int(group),
        size=int(size),
        digest=_plain(digest),
        capabilities=capabilities,
    )


def escape(text: str) -> str:
    """``text`` on one line of UTF-8, whatever bytes it is made of."""
    return re.sub(
        "[\x00-\x1f\x7f\\\\\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text
    )


def _plain(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        return bytes([int(found[1], 16)]).decode("utf-8", "surrogateescape")

    return re.sub(r"\\x([0-9a-f]{2})", character, text)


def _sort(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: os.fsencode(entry.path))


def _of_folder(root: bytes, below: bytes = b".", device: int = -1) -> Iterator[Entry]:
    path = root if below == b"." else os.path.join(root, below)  # noqa: PTH118 - bytes
    try:
        told = os.lstat(path)
        entry = _entry_of(path, os.fsdecode(below), told)
        here = entry.type == "d" and device in (-1, told.st_dev)
        names = os.listdir(path) if here else []  # noqa: PTH208 - bytes
    except FileNotFoundError:
        if below == b".":
            raise
        return  # of a VM that runs, it is gone since its directory was read
    yield entry
    for name in names:
        inner = name if below == b"." else os.path.join(below, name)  # noqa: PTH118 - bytes
        yield from _of_folder(root, inner, told.st_dev)


def _entry_of(path: bytes, below: str, told: os.stat_result) -> Entry:
    kind, mode = _TYPES[stat.S_IFMT(told.st_mode)], stat.S_IMODE(told.st_mode)
    who = told.st_uid, told.st_gid
    if kind == "l":
        return Entry(below, kind, mode, *who, digest=os.fsdecode(os.readlink(path)))  # noqa: PTH115
    if kind == "f":
        content = _of_file(path, told.st_size), _capabilities(path)
        return Entry(below, kind, mode, *who, told.st_size, *content)
    return Entry(below, kind, mode, *who)


def _capabilities(path: bytes) -> str:
    try:
        return os.getxattr(path, CAPABILITY, follow_symlinks=False).hex()
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise


def _of_file(path: bytes, size: int) -> str:
    with open(path, "rb") as stream:  # noqa: PTH123 - bytes
        return _sha256(ext4.parts(stream, size))


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _esp(root: offline.RootFs, scratch: Path) -> Iterator[Entry]:
    """What is on the EFI system partition, as it is seen where the image mounts it; mtools(1)."""
    if root.esp is None:
        return
    target = scratch / "esp"
    target.mkdir()
    image = f"{root.raw}@@{root.esp}"
    # mtools(1) follows a directory that is in itself, and a file's clusters round in a circle; so
    # the sum first, which is then endless, or more than there is.
    usage = ["mdu", "-s", "-i", image, "::"]
    told = run_confined(usage, read=[root.raw], timeout=_MTOOLS).stdout.split()
    clusters = int(told[-1]) if told and re.fullmatch(r"[0-9]{1,15}", told[-1]) else None
    if clusters is None or clusters * _cluster(root.raw, root.esp) > root.size:
        raise BuildError(f"{root.name}: the EFI system partition cannot be read")
    copy: list[Argument] = ["mcopy", "-s", "-n", "-i", image, "::", target]
    run_confined(copy, read=[root.raw], write=[target], largest=root.size, timeout=_MTOOLS)
    for entry in of_folder(target):
        if entry.path != ".":
            path = f"{_ESP}/{entry.path}"
            yield replace(entry, path=path, mode=_ESP_MODE, owner=0, group=0)


def _cluster(raw: Path, esp: int) -> int:
    """Bytes in a cluster of the VFAT that begins at ``esp``."""
    with raw.open("rb") as stream:
        stream.seek(esp)
        _, sector, sectors = struct.unpack("<11sHB", stream.read(14).ljust(14, b"\0"))
    return int(sector) * int(sectors)


def _of_disk(disk: ext4.Reader) -> Iterator[Entry]:
    paths = disk.inodes()
    inodes = {inode.number: inode for inode in paths.values()}
    files = [inode for inode in inodes.values() if stat.S_ISREG(inode.mode)]
    links = [inode for inode in inodes.values() if stat.S_ISLNK(inode.mode)]
    content = {inode.number: _sha256(parts) for inode, parts in disk.contents(files)}
    content |= disk.targets(links)
    capabilities = disk.attributes(files, CAPABILITY)
    for path, inode in paths.items():
        if stat.S_IFMT(inode.mode) not in _TYPES:
            raise BuildError(f"{path!r} on the disk is of no type that there is")
        yield Entry(
            path,
            _TYPES[stat.S_IFMT(inode.mode)],
            stat.S_IMODE(inode.mode),
            inode.owner,
            inode.group,
            inode.size if stat.S_ISREG(inode.mode) else 0,
            content.get(inode.number, ""),
            capabilities.get(inode.number, ""),
        )
