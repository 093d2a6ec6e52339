"""The bill of materials of a disk: CycloneDX 1.6 (ECMA-424), as JSON.

It is made from what the disk itself says: dpkg's status, the metadata of Python distributions and
npm packages wherever they lie, the programs that pins.yml pins, our wheel.
"""

from __future__ import annotations

import re
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import fixup_id
from packageurl import PackageURL
from pydantic import BaseModel, ValidationError

from serai import __version__
from serai.image import ext4, offline
from serai.image.definition.pins import Pin
from serai.image.errors import BuildError
from serai.image.release.tree import Entry

_STATUS = "var/lib/dpkg/status"
_WHEEL = "usr/lib/serai/serai.whl"
_DIST = re.compile(r"(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_NPM = re.compile(r"(?:.*/)?node_modules/(?:@[^/]+/)?[^/]+/package\.json")
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
# Where roles/toolchain puts the program that a pin is for; {} is the pin's version.
_PINNED = {
    "nats_py": "usr/lib/serai-fleet/[^/]+/lib/python3[^/]*/site-packages/"
    "nats_py-{}.dist-info/RECORD",
    "node": "usr/local/lib/nodejs/{}-official/[^/]+/bin/node",
    "node_wheel": "usr/local/lib/nodejs/{}-wheel/[^/]+/bin/node",
    "python_pptx": "usr/local/lib/python3[^/]*/dist-packages/python_pptx-{}.dist-info/RECORD",
}
# Debian's machine-readable copyright files, version 1.0
_MACHINE_READABLE = re.compile(r"^Format: *https?://\S+/copyright-format/1\.0", re.MULTILINE)
_LONGEST_LICENCE = 100  # characters; more is the licence's text and no name


@dataclass
class Part:
    """One component: what it is, its licences' names, where it was found, its SHA-256 if known."""

    purl: PackageURL
    licences: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    sha256: str = ""
    kind: ComponentType = ComponentType.LIBRARY


@dataclass(frozen=True)
class Subject:
    """What the bill is of: an image in a version, and the SHA-256 of its qcow2."""

    image: str
    version: str
    sha256: str
    distribution: str
    release: str
    arch: str


class _Package(BaseModel):
    """The parts of a package.json that count here."""

    name: str
    version: str
    license: Any = None


def parts(
    root: offline.RootFs,
    entries: Iterable[Entry],
    subject: Subject,
    pins: Mapping[str, Pin],
    scratch: Path,
) -> list[Part]:
    """Every component that the disk tells of, sorted by purl.

    ``entries`` is the disk's file manifest; copies are made below ``scratch`` and removed. Raises
    BuildError if the disk cannot be read.
    """
    files = {entry.path: entry for entry in entries}
    wanted = [path for path, entry in files.items() if entry.type == "f" and _is_wanted(path)]
    found: dict[str, Part] = {}
    with _copies(root, wanted, scratch) as copies:
        if _STATUS not in copies:
            raise BuildError(f"the disk of {subject.image} has no /{_STATUS}")
        licences = _licences(copies, files)
        status = copies[_STATUS].read_text(errors="replace")
        for part in [
            *debian(status, licences, subject.distribution, subject.release),
            *_python(copies),
            *_npm(copies),
            *_wheel(copies, files),
            *pinned_programs(files, pins, subject.arch),
        ]:
            known = found.setdefault(part.purl.to_string(), part)
            known.licences |= part.licences
            known.paths |= part.paths
    return [found[purl] for purl in sorted(found)]


def debian(
    status: str, licences: Mapping[str, set[str]], distribution: str, release: str
) -> Iterator[Part]:
    """The packages in dpkg's status file; ``licences`` by package."""
    for line in offline.packages(status):
        name, version, arch = line.split()
        qualifiers = {"arch": arch, "distro": f"{distribution}-{release}"}
        purl = PackageURL("deb", distribution, name, version, qualifiers)
        yield Part(purl, set(licences.get(name, ())))


def licence_names(copyright_file: str) -> set[str]:
    """The names of the licences in a machine-readable debian/copyright; of another one, none.

    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    if not _MACHINE_READABLE.search(copyright_file[:1000]):
        return set()
    return {name.strip() for name in re.findall(r"^License: *(\S.*)$", copyright_file, re.M)}


def pinned_programs(
    files: Mapping[str, Entry], pins: Mapping[str, Pin], arch: str
) -> Iterator[Part]:
    """Those of pins.yml's that are on the disk, with the digest of what was fetched."""
    for name, pin in pins.items():
        pattern = _PINNED.get(name)
        if pattern is None:
            raise BuildError(f"the bill of materials does not know where pins.yml's {name} lies")
        for path in files:
            if re.fullmatch(pattern.format(re.escape(pin.version)), path):
                fetched = {str(key): value for key, value in pin.sha256.items()}
                checksum = f"sha256:{fetched.get('any') or fetched[arch]}"
                program = name.partition("_wheel")[0].replace("_", "-")
                purl = PackageURL("generic", None, program, pin.version, {"checksum": checksum})
                yield Part(purl, paths={path}, kind=ComponentType.APPLICATION)


def text(subject: Subject, found: Iterable[Part], stamp: int) -> str:
    """The bill as JSON; ``stamp`` is its time in seconds since 1970.

    The same arguments are the same text. Raises BuildError if it does not fit the schema.
    """
    disk = Component(
        name=subject.image,
        version=subject.version,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.sha256)],
    )
    writer = Component(name="serai", version=__version__, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{subject.sha256} {subject.version}"),
        metadata=BomMetaData(
            component=disk,
            tools=ToolRepository(components=[writer]),
            timestamp=datetime.fromtimestamp(stamp, timezone.utc),
        ),
        components=[_component(part) for part in found],
    )
    bom.register_dependency(disk, bom.components)
    made = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415  # costs 2 s

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(made)
    if wrong is not None:
        raise BuildError(f"the bill of materials does not fit CycloneDX 1.6: {wrong.data}")
    return made


def _component(part: Part) -> Component:
    return Component(
        name=part.purl.name,
        group=part.purl.namespace if part.purl.type == "npm" else None,
        version=part.purl.version,
        type=part.kind,
        purl=part.purl,
        bom_ref=part.purl.to_string(),
        licenses=[_licence(name) for name in sorted(part.licences)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else [],
        properties=[Property(name="serai:path", value=f"/{path}") for path in sorted(part.paths)],
    )


def _licence(name: str) -> DisjunctiveLicense:
    known = fixup_id(name)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=name)


def _is_wanted(path: str) -> bool:
    if path in (_STATUS, _WHEEL):
        return True
    return any(pattern.fullmatch(path) for pattern in (_DIST, _NPM, _COPYRIGHT))


@contextmanager
def _copies(root: offline.RootFs, paths: list[str], scratch: Path) -> Iterator[dict[str, Path]]:
    """Copies of the files at ``paths``, by path."""
    for path in paths:
        if not path.isprintable():
            raise BuildError(f"a file on the disk has an odd name: {path!a}")
    with tempfile.TemporaryDirectory(dir=scratch.resolve()) as folder:
        copies = {path: Path(folder) / str(number) for number, path in enumerate(paths)}
        ext4.Reader(root, Path(folder)).copy(copies)
        yield copies


def _licences(copies: Mapping[str, Path], files: Mapping[str, Entry]) -> dict[str, set[str]]:
    """The names of licences by package; a package's folder may be a link to another's."""
    found = {}
    for path, copy in copies.items():
        if match := _COPYRIGHT.fullmatch(path):
            found[match[1]] = licence_names(copy.read_text(errors="replace"))
    for path, entry in files.items():
        folder, _, name = path.rpartition("/")
        if folder == "usr/share/doc" and entry.type == "l" and entry.digest in found:
            found[name] = found[entry.digest]
    return found


def _python(copies: Mapping[str, Path]) -> Iterator[Part]:
    for path, copy in copies.items():
        if _DIST.fullmatch(path):
            yield from _distribution(copy.read_text(errors="replace"), {path})


def _distribution(metadata: str, paths: set[str], sha256: str = "") -> Iterator[Part]:
    """A Python distribution by its core metadata (packaging.python.org, "Core metadata")."""
    headers = HeaderParser().parsestr(metadata)
    name, version = headers["Name"], headers["Version"]
    if name and version:
        told = headers["License-Expression"] or headers["License"] or ""
        normal = re.sub(r"[-_.]+", "-", name.strip()).lower()
        purl = PackageURL("pypi", None, normal, version.strip())
        yield Part(purl, _short(told), paths, sha256)


def _npm(copies: Mapping[str, Path]) -> Iterator[Part]:
    for path, copy in copies.items():
        if not _NPM.fullmatch(path):
            continue
        try:
            package = _Package.model_validate_json(copy.read_bytes())
        except ValidationError:
            continue  # a package's own test data, for example; no npm would take it either
        namespace, _, name = package.name.rpartition("/")
        told = package.license if isinstance(package.license, str) else ""
        yield Part(PackageURL("npm", namespace, name, package.version), _short(told), {path})


def _wheel(copies: Mapping[str, Path], files: Mapping[str, Entry]) -> Iterator[Part]:
    if _WHEEL not in copies:
        return
    try:
        with zipfile.ZipFile(copies[_WHEEL]) as wheel:
            metadata = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
            headers = wheel.read(metadata).decode(errors="replace")
    except (zipfile.BadZipFile, StopIteration):
        raise BuildError(f"/{_WHEEL} on the disk is no wheel") from None
    yield from _distribution(headers, {_WHEEL}, files[_WHEEL].digest)


def _short(licence: str) -> set[str]:
    name = licence.strip()
    known = name and name.upper() != "UNKNOWN" and "\n" not in name
    return {name} if known and len(name) <= _LONGEST_LICENCE else set()
