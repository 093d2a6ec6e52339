"""``session.files``: a session's files for a program elsewhere, and trees of its own file system.

A path begins with a path role: ``outputs/report.txt``. Archives that come from a session are
hostile: what they hold is made in a new directory, by names alone, and no symlink leads out of it.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from serai.common.errors import EXISTS, INVALID_PARAMS, SeraiError
from serai.common.jsonrpc import CHUNK
from serai.runtime.client import MOST_OUTPUT, Client
from serai.runtime.folders import archives

MOST = 1 << 30
"""Bytes of an archive that are taken from a session, which may send for ever."""
T = TypeVar("T")


class Files:
    """The files of one session."""

    def __init__(
        self, name: str, client: Callable[[], Client], another: Callable[[], Client]
    ) -> None:
        """``client`` gives a connection, ``another`` one that is the caller's to close."""
        self._name = name
        self._client = client
        self._another = another

    def write(self, path: str, data: bytes) -> None:
        """Make ``data`` the file, whole or not at all. Raises SeraiError."""
        self._client().put(self._name, *split(path), data)

    def read(self, path: str, *, limit: int = MOST_OUTPUT) -> bytes:
        """The content of the file. Raises SeraiError."""
        return self._client().get(self._name, *split(path), limit=limit)

    def ls(self, path: str) -> list[dict[str, Any]]:
        """The entries of the directory. Raises SeraiError."""
        return self._client().ls(self._name, *split(path))

    def mkdir(self, path: str) -> None:
        """Make the directory, and those above it. It may be there. Raises SeraiError."""
        self._one("mkdir", path)

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove what is there; of a directory all that is in it, if so told. Raises SeraiError."""
        self._one("remove", path, recursive=recursive)

    def move(self, path: str, to: str, *, replace: bool = False) -> None:
        """Give it another name in the same path role. Raises SeraiError."""
        role, name = split(to)
        if role != split(path)[0]:
            raise SeraiError(f"{to!r} is in another path role than {path!r}", code=INVALID_PARAMS)
        self._one("move", path, to=name, replace=replace)

    def stat(self, path: str) -> dict[str, Any]:
        """What is there: name, type, size, mode, modified_at. Raises SeraiError."""
        return dict(self._one("stat", path))

    def batch(self, role: str, operations: Iterable[Mapping[str, Any]]) -> list[Any | SeraiError]:
        """Many of docs/rpc.md's operations at once; each result, or error. Raises SeraiError."""
        return self._client().batch(self._name, role, operations)

    def put_tree(self, local: str | os.PathLike[str], path: str) -> None:
        """Copy what is in the directory ``local`` into a directory. Raises SeraiError or OSError.

        Nothing is put if anything is wrong, and a directory that was not there appears whole.
        """
        role, name = split(path)
        with tempfile.TemporaryFile() as spool:
            with archives.writing(spool) as archive:
                _pack(archive, Path(local))
            spool.seek(0)
            params = {"name": self._name, "role": role, "path": name}
            self._client().carry("tree.put", params, _parts(spool), lambda *_: None, 0)

    def get_tree(self, path: str, local: str | os.PathLike[str], *, limit: int = MOST) -> None:
        """Copy a directory to ``local``, which is not there yet. Raises SeraiError or OSError.

        All of it, or nothing. A symlink that leads out of the tree is refused.
        """
        target, (role, name) = Path(local).absolute(), split(path)
        if os.path.lexists(target):
            raise SeraiError(f"{target} is there already", "name a new directory", EXISTS)
        with tempfile.TemporaryFile() as spool:
            params = {"name": self._name, "role": role, "path": name}
            self._client().carry(
                "tree.get", params, iter((b"",)), lambda _, data: _keep(spool, data), limit
            )
            spool.seek(0)
            stage = Path(tempfile.mkdtemp(prefix=".serai-get-", dir=target.parent))
            try:
                unpack(spool, stage)
                stage.chmod(0o755)
                stage.rename(target)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise

    def watch(self, path: str) -> Generator[dict[str, Any], None, None]:
        """What changes below the directory, until this is closed. Raises SeraiError.

        The first event, ``watching``, says that from now on nothing is missed.
        """
        client = self._another()
        try:
            yield from client.lines("file.watch", self._name, *split(path))
        finally:
            client.close()

    def _one(self, do: str, path: str, **words: Any) -> Any:
        role, name = split(path)
        (found,) = self.batch(role, [{"do": do, "path": name, **words}])
        if isinstance(found, SeraiError):
            raise found
        return found


def unpack(file: IO[bytes], stage: Path) -> None:
    """Make what an archive holds in the directory ``stage``, in which nobody else writes."""
    made: dict[str, bool] = {"": True}  # by path, whether it is a directory
    for member, content in archives.reading(file):
        names = [each for each in member.name.split("/") if each not in ("", ".")]
        if not names:
            continue
        path = "/".join(names)
        known = path in made and not (made[path] and member.isdir())
        if member.name.startswith("/") or ".." in names or "\0" in path or known:
            raise _hostile(member, "is absolute, has '..' in it or comes twice")
        for depth in range(1, len(names)):
            above = "/".join(names[:depth])
            if not made.get(above, False):
                if above in made:
                    raise _hostile(member, "leads through what is no directory")
                (stage / above).mkdir()
                made[above] = True
        _make(stage / path, member, content)
        made[path] = member.isdir()


def _make(place: Path, member: tarfile.TarInfo, content: archives.Readable | None) -> None:
    mode = member.mode & archives.MODES
    if member.isdir():
        place.mkdir(exist_ok=True)
        place.chmod(mode | 0o700)
    elif member.issym():
        if not archives.inside(member.name, member.linkname):
            raise _hostile(member, "is a symlink that leads out of the tree")
        place.symlink_to(member.linkname)
    elif content is not None:
        with place.open("xb") as file:
            while data := content.read(1 << 20):
                file.write(data)
        place.chmod(mode)


def _pack(archive: tarfile.TarFile, local: Path) -> None:
    if not local.is_dir():
        raise SeraiError(f"{local} is no directory", code=INVALID_PARAMS)
    for above, directories, files in os.walk(local, onerror=_raise):
        for name in sorted([*directories, *files]):
            place = Path(above, name)
            info = place.lstat()
            link = str(place.readlink()) if place.is_symlink() else ""
            facts = (info.st_mode, info.st_size, info.st_mtime)
            made = archives.header(place.relative_to(local).as_posix(), facts, link)
            if made is None:
                continue  # a socket, or its like
            if not made.isreg():
                archive.addfile(made)
                continue
            with place.open("rb") as file:
                archive.addfile(made, file)


def _raise(error: OSError) -> None:
    raise error


def _keep(spool: IO[bytes], data: bytes) -> None:
    spool.write(data)


def _parts(spool: IO[bytes]) -> Iterator[bytes]:
    while data := spool.read(CHUNK):
        yield data
    yield b""


def split(path: str) -> tuple[str, str]:
    """The path role that a path begins with, and what is relative to that."""
    role, _, name = path.partition("/")
    return role, name


def _hostile(member: tarfile.TarInfo, why: str) -> SeraiError:
    return SeraiError(f"{ascii(member.name)[:200]} {why}", "nothing was copied", INVALID_PARAMS)
