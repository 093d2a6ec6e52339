"""Keys and certificates of a fleet: an authority, and whom it vouches for.

P-256, as the gate's. An authority lasts ten years, what it signs two.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serai.common import files
from serai.image.errors import BuildError

AUTHORITY = timedelta(days=3650)
LEAF = timedelta(days=730)
SKEW = timedelta(hours=1)  # of a clock that is behind

CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)


@dataclass(frozen=True)
class Pair:
    """A certificate's file and its key's."""

    certificate: Path
    key: Path

    def missing(self) -> bool:
        """Whether there is none; the certificate is written last."""
        return not (self.certificate.exists() and self.key.exists())

    def until(self) -> datetime:
        """When it ends. Raises BuildError for a file that is no certificate."""
        return _certificate(self.certificate).not_valid_after_utc


def authority(pair: Pair, name: str) -> None:
    """Make an authority. Its key can make every other: it stays where it is made."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = (
        _builder(key, AUTHORITY)
        .subject_name(subject)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    _write(pair, key, builder.sign(key, SHA256()))


def leaf(pair: Pair, issuer: Pair, name: str, purposes: tuple[x509.ObjectIdentifier, ...]) -> None:
    """Make a certificate for ``name``, a host's, an address or a user's."""
    signing = _key(issuer.key)
    by = _certificate(issuer.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    builder = (
        _builder(key, LEAF)
        # Not the name: a common name has at most 64 letters, and no meaning here.
        .subject_name(_name("Serai fleet"))
        .issuer_name(by.subject)
        .add_extension(of_issuer, critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
    )
    _write(pair, key, builder.sign(signing, SHA256()))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(key: ec.EllipticCurvePrivateKey, last: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + last)
        .add_extension(own, critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(pair: Pair, key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> None:
    """The key first: a certificate without its key would look whole to nobody."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write(pair.key, private, 0o600)
    files.write(pair.certificate, made.public_bytes(Encoding.PEM), 0o644)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} is no key that can be read: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise BuildError(f"{path} is no key of an elliptic curve")
    return private


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} is no certificate that can be read: {error}") from None


def copied(source: Path, target: Path) -> None:
    """The authority's certificate, beside what it vouches for; left alone if it is there."""
    content = source.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        files.write(target, content, 0o644)


def private_folder(path: Path) -> None:
    """A folder that only its owner may look into."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(path, 0o700)  # noqa: PTH101 - of one that was there too
