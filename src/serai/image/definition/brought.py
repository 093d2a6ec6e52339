"""What an image brings from the build host, looked at before a build: certificates and files.

Each mistake is one line in `invoke plan`, where it would be a failed task much later, or an image
that nobody can use.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from serai.image.errors import BuildError

CERTIFICATES, FILES = "base_certificates", "project_files"

RESERVED = (
    *("boot", "dev", "proc", "run", "sessions", "sys", "tmp", "var/tmp"),
    *("etc/serai", "etc/os-release", "usr/lib/os-release", "usr/lib/serai"),
)
"""Where no file of a project's may be: Serai's roles write there, or nothing stays there."""


def check(chosen: Mapping[str, Any]) -> None:
    """Raise BuildError for what cannot be meant; ``chosen`` has absolute paths."""
    if directory := chosen.get(CERTIFICATES):
        _check_certificates(Path(directory))
    _check_files([Path(each) for each in chosen.get(FILES, ())])


def _check_certificates(directory: Path) -> None:
    files = sorted(directory.glob("*.crt"))
    if not files:
        raise BuildError(
            f"variables.{CERTIFICATES}: {directory} has no file *.crt",
            hint="put each authority's certificate there, as PEM",
        )
    for path in files:
        if said := _complaint(path.read_text(encoding="utf-8", errors="replace")):
            raise BuildError(f"{path} {said}", hint="it takes one authority's certificate, as PEM")


def _complaint(text: str) -> str:
    """What is wrong with a certificate of an authority, '' if nothing is."""
    if "PRIVATE KEY" in text:
        return "has a private key in it, which every user of the image would have"
    if (count := text.count("-----BEGIN CERTIFICATE-----")) != 1:
        return f"has {count} certificates in it" if count else "is no certificate"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError:
        return "is no certificate"
    if not (found := context.get_ca_certs()):
        return "is the certificate of no authority, but of a server or a person"
    end = str(found[0]["notAfter"])
    return f"has expired: {end}" if ssl.cert_time_to_seconds(end) < time.time() else ""


def _check_files(trees: list[Path]) -> None:
    """Each file has one place, which is not Serai's."""
    known: dict[PurePosixPath, Path] = {}
    for tree in trees:
        if not tree.is_dir():
            raise BuildError(f"variables.{FILES}: {tree} is no directory")
        for place in _places(tree):
            if place in known:
                raise BuildError(
                    f"two files for /{place}: in {known[place]} and in {tree}",
                    hint="leave one of them out",
                )
            known[place] = tree
            if any(place.is_relative_to(each) for each in RESERVED):
                raise BuildError(
                    f"{tree / place} cannot be in an image: /{place} is Serai's or the system's",
                    hint="docs/roles.md has the variables for what Serai writes",
                )


def _places(tree: Path) -> Iterator[PurePosixPath]:
    for path in sorted(tree.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield PurePosixPath(path.relative_to(tree))
