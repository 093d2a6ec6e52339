"""What is in a tar archive of a tree, on both sides. Nothing here touches a file system.

An archive comes from somebody hostile as a rule. It has directories, regular files and symlinks;
rights are those for reading, writing and executing; owners are nobody's. Python's tarfile reads it.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

from serai.common.errors import INVALID_PARAMS, SeraiError

MODES = 0o777
BLOCK = 64 << 10
_KINDS = {
    tarfile.LNKTYPE: ("is a hard link", "make the archive with 'tar --hard-dereference'"),
    tarfile.FIFOTYPE: ("is a fifo", ""),
    tarfile.CHRTYPE: ("is a device", ""),
    tarfile.BLKTYPE: ("is a device", ""),
}


class Readable(Protocol):
    """All that is wanted of what bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class _Source:
    """What tarfile reads; knows whether it wanted more than there was."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.ended = False

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.ended |= not data
        return data


class EntryContent:
    """What is in a file of an archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        with _explained():
            return self._file.read(size)

    def at(self, offset: int) -> None:
        """Go on at a byte further on: what is before it is not read, as the zeros of a hole."""
        with _explained():
            # Python's buffer around it would ask whether a stream can go back, which it need not.
            self._file = getattr(self._file, "raw", self._file)
            self._file.seek(offset)


@contextmanager
def writing(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """An archive that is written to ``file``; its end only if nothing failed."""
    # The format keeps any name: pax(1) as Python writes it.
    archive = tarfile.open(  # noqa: SIM115  # its end is written only if nothing failed
        fileobj=file, mode="w|", bufsize=BLOCK, format=tarfile.PAX_FORMAT, errors="surrogateescape"
    )
    yield archive
    archive.close()


def header(name: str, info: tuple[int, int, float], link: str = "") -> tarfile.TarInfo | None:
    """The entry of a ``name`` with this mode, size and time; None of what is not kept."""
    mode, size, time = info
    made = tarfile.TarInfo(name)
    made.mode, made.mtime = mode & MODES, time
    if stat.S_ISREG(mode):
        made.size = size
    elif stat.S_ISDIR(mode):
        made.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        made.type, made.linkname = tarfile.SYMTYPE, link
    else:
        return None
    return made


def reading(
    file: Readable, *, whole: bool = False
) -> Iterator[tuple[tarfile.TarInfo, EntryContent | None]]:
    """The entries of an archive, a file's with what it is read from. Raises SeraiError.

    That is read before the next entry is asked for. A cut off archive is no archive. With ``whole``
    it may have sparse files and hard links, too.
    """
    source = _Source(file)
    with _explained():
        archive = tarfile.open(  # noqa: SIM115  # it holds nothing
            fileobj=source,  # type: ignore[call-overload]  # read() is all that it needs
            mode="r|",
            bufsize=BLOCK,
            errors="surrogateescape",
        )
    while True:
        with _explained():
            member = archive.next()
            archive.members.clear()  # which would keep every one
            if whole and member is not None and member.issparse():
                _mend_sparse(archive, member)
        if member is None:
            break
        if not (whole and (member.isreg() or member.islnk())):
            _check(member)
        content = archive.extractfile(member) if member.isreg() else None
        yield member, None if content is None else EntryContent(content)
    if source.ended:
        raise _unusable("it is cut off")


def _mend_sparse(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Have the next entry follow the data of a sparse file, whatever its header says of their size.

    Of one with 8 GiB of data tarfile takes that for the file's size. And a header that says more
    than there are data would have bytes skipped that nobody counts.
    """
    headers = member.pax_headers
    if "size" in headers and "GNU.sparse.realsize" in headers:
        member.size = int(headers["GNU.sparse.realsize"])
    pieces: Any = member.sparse
    packed = sum(size for _, size in pieces)
    archive.offset = member.offset_data + packed + -packed % tarfile.BLOCKSIZE


def inside(name: str, target: str) -> bool:
    """Whether a symlink leads nowhere but into its tree, if all the others there do so, too.

    ``..`` comes first only: behind a name, which may be a symlink, nobody knows what it means.
    """
    ups, names = 0, [each for each in target.split("/") if each not in ("", ".")]
    while ups < len(names) and names[ups] == "..":
        ups += 1
    depth = len([each for each in name.split("/") if each not in ("", ".")]) - 1
    return not target.startswith("/") and ups <= depth and ".." not in names[ups:]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _unusable(str(error)[:100]) from None
    except (RecursionError, MemoryError):
        raise _unusable("its headers have no end") from None


def _check(member: tarfile.TarInfo) -> None:
    why, hint = _KINDS.get(member.type, ("is of a kind that no tree has", ""))
    if member.issparse():
        why, hint = "is a sparse file", "make the archive without --sparse"
    elif member.isreg() or member.isdir() or member.issym():
        return
    raise SeraiError(f"{ascii(member.name)[:200]} {why}", hint, INVALID_PARAMS)


def _unusable(why: str) -> SeraiError:
    hint = "is it a whole tar archive?"
    return SeraiError(f"the archive cannot be used: {why}", hint, INVALID_PARAMS)
