"""Keys and certificates of the gate's authority, as PEM.

Of python3-cryptography only what its version 3.4 has is used, and elliptic curves: P-256 is the one
that every client knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_network

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

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def new_key() -> str:
    """A new private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def root(key: str, since: float, until: float, subtrees: Sequence[str] | None) -> bytes:
    """A root of ``key``'s for names in ``subtrees``, or for all; never for an address."""
    private = _load(key)
    name = _name(private)
    addresses = [x509.IPAddress(ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
    permitted = None if subtrees is None else [x509.DNSName(subtree) for subtree in subtrees]
    builder = (
        _builder(private, since, until)
        .issuer_name(name)
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, addresses), critical=True)
    )
    return builder.sign(private, SHA256()).public_bytes(Encoding.PEM)


def leaf(host: str, key: str, issuer: str, since: float, until: float) -> bytes:
    """A certificate for ``host`` and ``key``, signed by the key ``issuer``."""
    signing = _load(issuer)
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    builder = (
        _builder(_load(key), since, until)
        .issuer_name(_name(signing))
        # Not empty, which some clients dislike; and no common name, which has at most 64 letters.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Serai gate")]))
        .add_extension(of_issuer, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(signing, SHA256()).public_bytes(Encoding.PEM)


def _load(key: str) -> ec.EllipticCurvePrivateKey:
    private = load_pem_private_key(key.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the stored key is not one of an elliptic curve")
    return private


def _name(key: ec.EllipticCurvePrivateKey) -> x509.Name:
    """Each key has its own, because some clients look an issuer up by its name alone."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Serai gate {digest[:16]}")])


def _builder(
    key: ec.EllipticCurvePrivateKey, since: float, until: float
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EPOCH + timedelta(seconds=int(since)))
        .not_valid_after(_EPOCH + timedelta(seconds=int(until)))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
