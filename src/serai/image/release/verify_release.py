"""Whether a release folder is what somebody signed; offline, and with suspicion.

It needs a list of trusted keys and nothing else: no checkout's definitions, no network. The folder
may be anybody's work, so every file is opened once, by its name in the folder, never through a
link, and only what a good signature covers is read as more than bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serai.image import layout, sign
from serai.image.errors import BuildError
from serai.image.release import provenance

MOST_FILES = 100
_LARGEST_TEXT = 1 << 20  # bytes, of SHA256SUMS and of its signature
_LARGEST_DOCUMENT = 128 << 20  # bytes, of what is read into memory once its digest is known good
_UNSIGNED = "do not use this release"


@dataclass(frozen=True)
class Release:
    """A folder that was found to be good: what it holds, who signed it, and how many files."""

    image: str
    version: str
    signer: str
    files: int


def verify(folder: Path, allowed_signers: Path) -> Release:
    """The release in ``folder``, if all of it was signed by a key in ``allowed_signers``.

    Raises BuildError naming the first file that is not what was signed.
    """
    with _open(folder) as directory:
        present = _names(directory)
        signer, signed = _signed(directory, present, allowed_signers)
        _require_same_names(present, signed)
        statement = _document(directory, layout.PROVENANCE, signed)
        sizes = _subjects(statement, signed)
        for name, digest in signed.items():
            _require(directory, name, digest, sizes.get(name))
        bill = _document(directory, layout.SBOM, signed)
        checks = _document(directory, layout.VERIFIED, signed)
    image, version = _identity(statement, bill, checks, signed)
    return Release(image, version, signer, len(present))


def promised(folder: Path, allowed_signers: Path) -> dict[str, tuple[str, int]]:
    """Digest and size of each file that was signed, but those that say so; they need not be there.

    ``folder`` has SHA256SUMS, its signature and the provenance. Raises BuildError if these are not
    what a key in ``allowed_signers`` signed.
    """
    with _open(folder) as directory:
        _, signed = _signed(directory, _names(directory), allowed_signers)
        if layout.PROVENANCE not in signed:
            raise BuildError(f"{layout.PROVENANCE} was not signed", hint=_UNSIGNED)
        sizes = _subjects(_document(directory, layout.PROVENANCE, signed), signed)
    return {name: (signed[name], size) for name, size in sizes.items()}


def _signed(directory: int, present: set[str], allowed_signers: Path) -> tuple[str, dict[str, str]]:
    """Who signed, and which digests by the files' names."""
    sums = _text(directory, layout.SUMS, present)
    signature = _text(directory, layout.SIGNATURE, present)
    signer = sign.signer(sums.decode("latin-1"), signature, allowed_signers)
    return signer, _digests(sums)


@contextmanager
def _open(folder: Path) -> Iterator[int]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)
    except OSError as error:
        raise BuildError(f"{folder} cannot be read: {error.strerror}") from None


def _names(directory: int) -> set[str]:
    """The names in the folder, all of them plain files."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > MOST_FILES:
                raise BuildError(f"there are more than {MOST_FILES} files", hint=_UNSIGNED)
    for name in sorted(found):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not layout.NAME.fullmatch(name):
            raise BuildError(f"{name!a} is no name of a release's file", hint=_UNSIGNED)
        if not stat.S_ISREG(mode):
            raise BuildError(f"{name} is {_kind(mode)}, not a plain file", hint=_UNSIGNED)
    return set(found)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _text(directory: int, name: str, present: set[str]) -> bytes:
    if name not in present:
        raise BuildError(f"{name} is not there, so nothing says what is", hint=_UNSIGNED)
    with _file(directory, name) as descriptor:
        content = _read(descriptor, _LARGEST_TEXT)
    if len(content) > _LARGEST_TEXT:
        raise BuildError(f"{name} is larger than {_LARGEST_TEXT >> 20} MiB", hint=_UNSIGNED)
    return content


def _digests(sums: bytes) -> dict[str, str]:
    try:
        return sign.parse(sums.decode("ascii"))
    except ValueError as error:
        raise BuildError(f"{layout.SUMS} is signed, but not a release's: {error}") from None


def _require_same_names(present: set[str], signed: Mapping[str, str]) -> None:
    own = {layout.SUMS, layout.SIGNATURE}
    for name in sorted(present ^ (own | set(signed))):
        what = "is there, but was not signed" if name in present else "was signed, but is not there"
        raise BuildError(f"{name} {what}", hint=_UNSIGNED)
    for name in (layout.PROVENANCE, layout.SBOM, layout.VERIFIED):
        if name not in signed:
            raise BuildError(f"{name} is not there, a release has one", hint=_UNSIGNED)


def _require(directory: int, name: str, digest: str, size: int | None) -> None:
    """See that the file ``name`` has that digest, reading no more than ``size`` bytes of it."""
    with _file(directory, name) as descriptor:
        found = os.fstat(descriptor).st_size
        if size is not None and found != size:
            _reject(name)
        computed = hashlib.sha256()
        rest = found
        while rest > 0 and (chunk := os.read(descriptor, min(rest, 1 << 20))):
            computed.update(chunk)
            rest -= len(chunk)
        if rest or os.read(descriptor, 1) or computed.hexdigest() != digest:
            _reject(name)


def _document(directory: int, name: str, signed: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object in the file ``name``, of the very bytes that have the signed digest."""
    with _file(directory, name) as descriptor:
        content = _read(descriptor, _LARGEST_DOCUMENT)
    if hashlib.sha256(content).hexdigest() != signed[name]:
        _reject(name)
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError):
        loaded = None
    if not isinstance(loaded, dict):
        raise BuildError(f"{name} is signed, but no JSON object", hint=_UNSIGNED)
    return loaded


@contextmanager
def _file(directory: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise BuildError(f"{name} cannot be read: {error.strerror}", hint=_UNSIGNED) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was one when we listed them
            _reject(name)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, most: int) -> bytes:
    """What is in the file, cut after ``most`` bytes and one."""
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        return stream.read(most + 1)


def _reject(name: str) -> NoReturn:
    raise BuildError(f"{name} is not what was signed", hint=_UNSIGNED)


# --- what the documents say of the files; signed, but by somebody who may have erred


def _subjects(statement: Mapping[str, Any], signed: Mapping[str, str]) -> dict[str, int]:
    """The files' sizes by name, after seeing that the provenance speaks of just these files."""
    wanted = {name: digest for name, digest in signed.items() if name != layout.PROVENANCE}
    try:
        subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
        sizes = {each["name"]: int(each["annotations"]["size"]) for each in statement["subject"]}
        kinds = (statement["_type"], statement["predicateType"])
    except (KeyError, TypeError, ValueError):
        raise _wrong(layout.PROVENANCE, "it names no files with digests and sizes") from None
    if kinds != (provenance.STATEMENT, provenance.PREDICATE):
        raise _wrong(layout.PROVENANCE, "it is no provenance of SLSA, version 1")
    for name in sorted({*wanted, *subjects}):
        if wanted.get(name) != subjects.get(name):
            raise _wrong(layout.PROVENANCE, f"it does not speak of {name!a} as it is here")
    return sizes


def _identity(
    statement: Mapping[str, Any],
    bill: Mapping[str, Any],
    checks: Mapping[str, Any],
    signed: Mapping[str, str],
) -> tuple[str, str]:
    """The image and version that all documents speak of."""
    try:
        parameters = statement["predicate"]["buildDefinition"]["externalParameters"]
        image, version = str(parameters["image"]), str(parameters["version"])
    except (KeyError, TypeError):
        raise _wrong(layout.PROVENANCE, "it names no image and version") from None
    disk = signed.get(layout.disk(image))
    if disk is None:
        raise _wrong(layout.PROVENANCE, f"it speaks of {image!a}, which is not here")
    try:
        component = bill["metadata"]["component"]
        hashes = {each["alg"]: each["content"] for each in component["hashes"]}
        told = (bill["bomFormat"], component["name"], component["version"], hashes["SHA-256"])
    except (KeyError, TypeError):
        raise _wrong(layout.SBOM, "it does not say of what it is the bill") from None
    if told != ("CycloneDX", image, version, disk):
        raise _wrong(layout.SBOM, f"it is not that of {image} {version} as it is here")
    good = (checks.get("image"), checks.get("sha256"), checks.get("failed")) == (image, disk, 0)
    if not good or not checks.get("passed"):
        raise _wrong(layout.VERIFIED, f"it does not say that {image} as it is here is good")
    return image, version


def _wrong(name: str, why: str) -> BuildError:
    return BuildError(f"{name} is signed, but wrong: {why}", hint=_UNSIGNED)
