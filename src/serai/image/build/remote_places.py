"""Where a shared cache can be: any directory, or a repository of images that skopeo(1) reaches.

Both keep an entry by stage and key, as the cache of one host does. All that is read from there is a
stranger's: each file has a name that is expected, is a plain one, and is no larger than ``most``.
Whether it is to be trusted is for others to say (remote.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Protocol

from serai.image import cache, oci
from serai.image.errors import BuildError
from serai.image.run import last_lines, run

_PATIENCE = 3600.0  # seconds for one transfer
_CHUNK = 1 << 20  # bytes
_MANIFEST = 4 << 20  # bytes; registries need not take a larger one
# How skopeo says that there is no such image: a registry, and a directory of the transport oci.
_ABSENT = ("manifest unknown", "name unknown", "no descriptor found", "index.json: no such file")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Place(Protocol):
    """A shared cache. Raises BuildError, or OSError, if it cannot be used as it should."""

    def has(self, entry: Path) -> bool:
        """Whether there is something for ``entry``, <stage>/<key>."""

    def get(self, entry: Path, into: Path, names: Collection[str], *, most: int) -> bool:
        """Copy the files of ``entry`` into a directory; whether there is something."""

    def put(self, entry: Path, content: Mapping[str, Path], *, arch: str) -> None:
        """Keep these files by their names, in the place of what there is."""


class SharedDirectory:
    """A directory that hosts share: ``ROOT``/<stage>/<key>/ as in the cache of one host."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, entry: Path) -> bool:
        return (self._root / entry).is_dir()

    def get(self, entry: Path, into: Path, names: Collection[str], *, most: int) -> bool:
        if not self.has(entry):
            return False
        for name in names:
            with _opened(self._root / entry / name, most) as source:
                _copy(source, into / name, most)
        return True

    def put(self, entry: Path, content: Mapping[str, Path], *, arch: str) -> None:  # noqa: ARG002
        target = self._root / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        cache.sweep(target.parent)
        with cache.making(target), cache.whole(target, replace=True) as folder:
            for name, path in content.items():
                with path.open("rb") as source:
                    _copy(source, folder / name, path.stat().st_size)


class Repository:
    """Images of one layer in a repository of a registry (docker://…) or a layout (oci:…)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def has(self, entry: Path) -> bool:
        return bool(manifest(self._reference(entry)))

    def get(self, entry: Path, into: Path, names: Collection[str], *, most: int) -> bool:
        found = manifest(self._reference(entry))
        if not found:
            return False
        layer, size = _layer(found)
        if size > most:
            raise BuildError(f"its layer has {size} bytes, more than the {most} it may have")
        with tempfile.TemporaryDirectory(dir=into) as work:
            # Exactly what was just looked at, whatever is there by now.
            pinned = f"{self._name}@sha256:{hashlib.sha256(found).hexdigest()}"
            source = pinned if self._name.startswith("docker:") else self._reference(entry)
            limit = ["prlimit", f"--fsize={most}", "--"]
            self._skopeo(*limit, "skopeo", "--insecure-policy", "copy", source, f"dir:{work}/copy")
            _unpack(Path(work) / "copy" / layer, into, names, most)
        return True

    def put(self, entry: Path, content: Mapping[str, Path], *, arch: str) -> None:
        home = next(iter(content.values())).parent
        with tempfile.TemporaryDirectory(dir=home) as work, writing(self._name):
            oci.lay_out(content, Path(work), arch=arch, tag="entry", stamp=0)
            # A disk is compressed already; skopeo insists on compressing the layer around it.
            copy = ["copy", "--dest-compress-level", "1", f"oci:{work}:entry"]
            self._skopeo("skopeo", "--insecure-policy", *copy, self._reference(entry))

    def _reference(self, entry: Path) -> str:
        return f"{self._name}:{'-'.join(entry.parts)}"

    def _skopeo(self, *argv: str) -> None:
        run(argv, timeout=_PATIENCE)


def manifest(reference: str) -> bytes:
    """The manifest of what ``reference`` names, b"" if there is none."""
    argv = ["skopeo", "inspect", "--raw", reference]
    done = run(argv, check=False, timeout=60, captured=_MANIFEST)
    if done.returncode == 0:
        return done.stdout.encode()
    if any(words in done.stderr for words in _ABSENT):
        return b""
    raise BuildError(said(done.stderr))


def writing(name: str) -> AbstractContextManager[None]:
    """Alone with a layout, whose index skopeo rewrites. A registry sees to that itself."""
    kind, _, path = name.partition(":")
    return cache.locked(Path(f"{path}.lock"), wait=True) if kind == "oci" else nullcontext()


def said(output: str) -> str:
    """What skopeo failed of: its last line, without the time."""
    line = last_lines(output, 1).replace(r"\"", '"')
    return line.partition("level=fatal msg=")[2].strip('"') or line


def _opened(path: Path, most: int) -> IO[bytes]:
    """A plain file, opened; never a link, nor a pipe that would be waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        stream.close()
        large = f"has more than the {most} bytes it may have"
        raise BuildError(f"{path.name} {large if found.st_size > most else 'is not a plain file'}")
    return stream


def _copy(source: IO[bytes], target: Path, most: int) -> None:
    with target.open("wb") as stream:
        while chunk := source.read(_CHUNK):
            if stream.tell() + len(chunk) > most:
                raise BuildError(f"{target.name} has more than the {most} bytes it may have")
            stream.write(chunk)


def _layer(manifest: bytes) -> tuple[str, int]:
    """Digest and size of the one layer that an image of ours has."""
    try:
        (layer,) = json.loads(manifest)["layers"]
        found, size = _DIGEST.fullmatch(layer["digest"]), int(layer["size"])
    except (ValueError, LookupError, TypeError, RecursionError):
        found, size = None, 0
    if found is None:
        raise BuildError("its manifest is not one of an image of one layer")
    return found[1], size


def _unpack(layer: Path, into: Path, names: Collection[str], most: int) -> None:
    """Take the files with these names out of a layer, which is a tar, compressed or not."""
    try:
        with tarfile.open(layer, "r|*") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name not in names:
                    raise BuildError("its layer holds something else than a stage")
                _copy(content, into / member.name, most)
    except (tarfile.TarError, zlib.error, EOFError, ValueError):
        raise BuildError("its layer is no tar that can be read") from None
