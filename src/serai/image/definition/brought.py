"""What an image brings from the build host, looked at before a build: certificates and files.

Each mistake is one line in `invoke plan`, where it would be a failed task much later, or an image
that nobody can use.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from serai.image import digest
from serai.image.errors import BuildError

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
CERTIFICATES, FILES = "base_certificates", "project_files"

RESERVED = (
    # gone, or not the image's, when it boots
    *("boot", "dev", "proc", "run", "sessions", "sys", "tmp", "var/log", "var/tmp"),
    *("root/.ssh", "root/.cache", "var/cache/apt", "var/lib/cloud", "var/lib/serai"),
    *("etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_*"),
    # links of the distribution's
    *("bin", "lib", "lib64", "sbin", "var/lock", "var/run"),
    # Serai's
    *("etc/os-release", "usr/lib/os-release*", "etc/apt/apt.conf.d/*serai*", "etc/serai"),
    *("etc/systemd/system/serai*", "usr/lib/serai", "usr/bin/serai*", "usr/local/bin/serai"),
    "usr/local/share/ca-certificates/serai",
)
"""Where no file of a project's may be, nor below, as fnmatch(3) has names."""


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
    if (count := text.count(_BEGIN)) != 1:
        return f"has {count} certificates in it" if count else "is no certificate"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # What is written around it may be in any language.
    first, last = text.index(_BEGIN), text.find(_END)
    try:
        context.load_verify_locations(cadata=text[first : last + len(_END)])
    except (ssl.SSLError, ValueError, TypeError):
        return "is no certificate"
    if not (found := context.get_ca_certs()):
        return "is the certificate of no authority, but of a server or a person"
    end = str(found[0]["notAfter"])
    return f"has expired: {end}" if ssl.cert_time_to_seconds(end) < time.time() else ""


def _check_files(trees: list[Path]) -> None:
    """Each file has one place, which is not Serai's."""
    known: dict[PurePosixPath, Path] = {}
    above: dict[PurePosixPath, Path] = {}
    for tree in trees:
        if not tree.is_dir():
            raise BuildError(f"variables.{FILES}: {tree} is no directory")
        for place in _places(tree):
            taken = [each for each in (place, *place.parents) if each in known]
            if taken or place in above:
                other = known[taken[0]] if taken else above[place]
                raise BuildError(
                    f"two files for /{place}: in {other} and in {tree}",
                    hint="leave one of them out",
                )
            known[place] = tree
            above |= dict.fromkeys(place.parents, tree)
            if _is_reserved(place):
                raise BuildError(
                    f"{tree / place} cannot be in an image: /{place} is Serai's or the system's",
                    hint="docs/roles.md has the variables for what Serai writes",
                )


def _is_reserved(place: PurePosixPath) -> bool:
    names = [str(each) for each in (place, *place.parents)]
    return any(fnmatch(name, each) for name in names for each in RESERVED)


def _places(tree: Path) -> Iterator[PurePosixPath]:
    for path in sorted(digest.below(tree)):
        if path.is_symlink() or not path.is_dir():
            yield PurePosixPath(path.relative_to(tree))
