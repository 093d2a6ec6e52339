"""What the files of a release folder are called."""

from __future__ import annotations

import re

from serai.image.errors import BuildError

CHANGES = "CHANGES.md"
FILES = "files.tsv.zst"
MANIFEST = "manifest.json"
PACKAGES = "packages.txt"
PROVENANCE = "provenance.json"
REPORT = "report.html"
SBOM = "sbom.cdx.json"
SIGNATURE = "SHA256SUMS.sig"
SUMS = "SHA256SUMS"
VERIFIED = "verify.json"

# Names that need no quoting anywhere: in a shell, a URL, SHA256SUMS.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+-]{0,63}")


def version(text: str) -> str:
    """``text``, if a release may be called so; raises BuildError if not."""
    if not _VERSION.fullmatch(text):
        raise BuildError(
            f"{text!r} is no version of a release",
            hint="a digit, then letters, digits, '.', '+' and '-', for example 1.2.0",
        )
    return text
