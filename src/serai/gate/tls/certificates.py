"""The certificates that a session trusts, as files, and the variables that lead there."""

from __future__ import annotations

from pathlib import Path

from serai.common import files
from serai.common.paths import CERTIFICATES

OURS = "ca.pem"
"""The gate's own, for programs that trust one file besides what they come with."""

ALL = "bundle.pem"
"""The VM's and the gate's, for programs that trust one file and nothing else."""

_ALL_BY = (
    "SSL_CERT_FILE",  # OpenSSL and so Python, Ruby, …; Go; rustls-native-certs, and so uv; curl
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "CURL_CA_BUNDLE",  # also libcurl's where it is built with another TLS library
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "npm_config_cafile",
)
_OURS_BY = ("DENO_CERT", "NODE_EXTRA_CA_CERTS")


def environment() -> dict[str, str]:
    """What real clients look at; docs/clients.md shows which, `invoke clients` tries it."""
    return {
        **dict.fromkeys(_ALL_BY, f"{CERTIFICATES}/{ALL}"),
        **dict.fromkeys(_OURS_BY, f"{CERTIFICATES}/{OURS}"),
    }


def write(folder: Path, roots: Path, ours: bytes) -> None:
    """Put both files into a session's folder; ``roots`` has what the VM trusts, if it is there.

    Programs may read them meanwhile. Raises OSError.
    """
    trusted = roots.read_bytes() if roots.exists() else b""
    if trusted and not trusted.endswith(b"\n"):
        trusted += b"\n"
    files.write(folder / OURS, ours, durable=False)
    files.write(folder / ALL, trusted + ours, durable=False)


def remove(folder: Path) -> None:
    """Take them away, so that nobody takes what is no longer kept up for what is."""
    for name in (OURS, ALL):
        (folder / name).unlink(missing_ok=True)
