"""What is in dist/, and what the files of a build or a release are called."""

from __future__ import annotations

import re

BOOT_CHART = "boot.svg"
CHANGES = "CHANGES.md"
FILES = "files.tsv.zst"
LOG = "build.log"
MANIFEST = "manifest.json"
PACKAGES = "packages.txt"
PROVENANCE = "provenance.json"
REPORT = "report.html"
SBOM = "sbom.cdx.json"
SIGNATURE = "SHA256SUMS.sig"
SUMS = "SHA256SUMS"
VERIFIED = "verify.json"

CLIENT = "python"
"""What `invoke dist` makes, beside the images."""

# Names that need no quoting anywhere: in a shell, a URL, SHA256SUMS.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


def disk(image: str) -> str:
    """The name of the file that is the image's disk."""
    return f"{image}.qcow2"
