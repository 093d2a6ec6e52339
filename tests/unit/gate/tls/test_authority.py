"""Roots and leaves, and what clients of several TLS libraries make of them."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PublicFormat

from serai.gate.tls.authority import Authority, Issuer, is_due, signer, valid
from tests.support import tls_client

DAY = 86400.0
NOW = 1_800_000_000.0
NAMES = ("api.example.com", "*.example.org")
TRUSTED = ("api.example.com", "v1.api.example.com", "example.org", "a.b.example.org")
OTHERS = ("example.com", "api.example.com.evil.test", "xapi.example.com", "org", "evil.test")


class Memory(dict[str, bytes]):
    """A store."""

    def read(self, name: str) -> bytes | None:
        return self.get(name)

    def write(self, name: str, data: bytes) -> None:
        self[name] = data


class Clock:
    """It says what it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def authority(store: Memory, tmp_path: Path, clock: Clock) -> Authority:
    return Authority(store, tmp_path, clock)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One with the time of now, for clients that have no other."""
    return Authority(Memory(), tmp_path_factory.mktemp("tls"))


def certificates(pem: bytes) -> list[x509.Certificate]:
    end = b"-----END CERTIFICATE-----\n"
    return [x509.load_pem_x509_certificate(each + end) for each in pem.split(end)[:-1]]


def leaf(authority: Authority, host: str) -> x509.Certificate:
    """The certificate that a client gets; it trusts everything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client, _ = tls_client.shaken(context, authority.context(host), host)
    der = client.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


def signing_key(one: x509.Certificate) -> bytes:
    """Its public key; python3-cryptography before 40 compares no keys."""
    return one.public_key().public_bytes(tls_client.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed_by(one: x509.Certificate, issuers: Sequence[x509.Certificate]) -> list[int]:
    return [number for number, each in enumerate(issuers) if each.subject == one.issuer]


# --- who signs, and what is due


def issuers(*ends: float) -> list[Issuer]:
    return [Issuer("", NOW - DAY, NOW + end * DAY) for end in ends]


@pytest.mark.parametrize(
    ("ends", "due", "signs"),
    [
        ([730], False, 0),
        ([91], False, 0),
        ([90], True, 0),
        ([90, 730], False, 0),
        ([31, 671], False, 0),
        ([30, 670], False, 1),
        ([1, 641], False, 1),
        ([5], True, 0),
    ],
)
def test_a_successor_is_made_early_and_signs_late(ends: list[float], due: bool, signs: int) -> None:
    known = issuers(*ends)
    assert is_due(known, NOW) == due
    assert signer(known, NOW) is known[signs]


def test_only_what_is_in_force_counts() -> None:
    good = issuers(10, 700)
    wrong = [Issuer("", NOW + 1, NOW + 900 * DAY), Issuer("", NOW - 900 * DAY, NOW)]
    assert valid([wrong[0], good[1], wrong[1], good[0]], NOW) == good
    assert is_due([], NOW)


def test_programs_have_the_successor_before_it_signs(
    authority: Authority, clock: Clock, store: Memory, tmp_path: Path
) -> None:
    """Day by day for six years: what a program read up to 60 days ago is still good."""
    told: list[tuple[float, set[bytes]]] = []
    seen, changes = set(), 0
    authority.roots(NAMES)
    for day in range(0, 6 * 365, 5):
        clock.now = NOW + day * DAY
        changes += authority.renew()
        if day % 400 == 0:  # also a gate that is started again goes on with it
            authority = Authority(store, tmp_path, clock)
        roots = certificates(authority.roots(NAMES))
        told.append((clock.now, {each.subject.public_bytes() for each in roots}))
        issuer = leaf(authority, "api.example.com").issuer.public_bytes()
        seen.add(issuer)
        assert all(issuer in names for when, names in told if clock.now - when < 60 * DAY)
    assert len(seen) == 4
    assert changes in (6, 7)  # each is made and goes


def test_after_years_switched_off_it_begins_anew(authority: Authority, clock: Clock) -> None:
    before = certificates(authority.roots(NAMES))[0].subject
    clock.now += 1000 * DAY
    assert authority.renew()
    (root,) = certificates(authority.roots(NAMES))
    assert root.subject != before
    assert leaf(authority, "api.example.com").issuer == root.subject


def test_a_clock_that_was_ahead_does_no_harm(authority: Authority, clock: Clock) -> None:
    clock.now += 3000 * DAY
    authority.context("api.example.com")
    clock.now = NOW
    (root,) = certificates(authority.roots(NAMES))
    assert signed_by(leaf(authority, "api.example.com"), [root]) == [0]


def test_it_makes_nothing_before_it_is_asked(authority: Authority, store: Memory) -> None:
    assert not authority.renew()
    assert authority.roots([]) == b""
    assert not store


def test_another_gate_takes_up_the_key(store: Memory, tmp_path: Path, clock: Clock) -> None:
    (one,), (two,) = (certificates(Authority(store, tmp_path, clock).roots(NAMES)) for _ in "12")
    assert signing_key(one) == signing_key(two)
    assert one.subject == two.subject
    assert one.serial_number != two.serial_number


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"key": "x"}]', b"\xff", b"[null]"])
def test_what_is_stored_and_unknown_is_written_anew(
    content: bytes, store: Memory, authority: Authority
) -> None:
    store["authority"] = content
    assert len(certificates(authority.roots(NAMES))) == 1


def test_its_key_is_in_no_text(authority: Authority) -> None:
    authority.context("api.example.com")
    assert "PRIVATE" not in repr((authority, authority._issuers, authority._leaves))


# --- what the certificates say


def test_a_root_permits_its_names_and_no_address(authority: Authority) -> None:
    (root,) = certificates(authority.roots([*NAMES, "*.api.example.com"]))
    found = root.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert [str(each.value) for each in found.value.permitted_subtrees or []] == [
        "api.example.com",
        "example.org",
    ]
    assert [str(each.value) for each in found.value.excluded_subtrees or []] == [
        "0.0.0.0/0",
        "::/0",
    ]


def test_a_star_permits_every_name(authority: Authority) -> None:
    (root,) = certificates(authority.roots(["*", "a.test"]))
    found = root.extensions.get_extension_for_class(x509.NameConstraints).value
    assert found.permitted_subtrees is None


@pytest.mark.parametrize(
    "wrong", ["", "A.test", "a.test.", "192.0.2.7", "::1", "a:443", "*.*", "ü"]
)
def test_a_name_that_is_none_is_refused(wrong: str, authority: Authority, store: Memory) -> None:
    with pytest.raises(ValueError, match=r"canonical|not a host"):
        authority.roots([wrong])
    with pytest.raises(ValueError, match=r"canonical|not a host"):
        authority.context(wrong)


def test_a_leaf_lasts_a_week_and_is_renewed_in_time(authority: Authority, clock: Clock) -> None:
    first = authority.context("a.test")
    one = leaf(authority, "a.test")
    assert authority.context("a.test") is first
    clock.now += 4.9 * DAY
    assert authority.context("a.test") is first
    clock.now += 0.2 * DAY
    assert authority.context("a.test") is not first
    two = leaf(authority, "a.test")
    assert one.serial_number != two.serial_number
    assert signing_key(one) == signing_key(two)
    clock.now -= 8 * DAY  # a clock that is set right
    assert leaf(authority, "a.test").serial_number not in (one.serial_number, two.serial_number)


def test_contexts_are_bounded_and_the_oldest_goes(authority: Authority) -> None:
    kept, lost = authority.context("kept.test"), authority.context("lost.test")
    for number in range(255):
        authority.context(f"h{number}.test")
        assert authority.context("kept.test") is kept
    assert authority.context("lost.test") is not lost


def test_no_key_stays_in_the_folder(authority: Authority, tmp_path: Path) -> None:
    authority.context("a.test")
    assert not list(tmp_path.iterdir())


def test_a_long_name_is_signed_too(real: Authority) -> None:
    name = ".".join(["a" * 61] * 4)
    tls_client.verified(real.roots([name]), real.context(name), name)


# --- what clients say


@pytest.mark.parametrize("host", TRUSTED)
def test_python_trusts_it_also_strictly(host: str, real: Authority) -> None:
    client = tls_client.verified(real.roots(NAMES), real.context(host), host)
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == "http/1.1"
    tls_client.verified(real.roots(["*"]), real.context(host), host)


@pytest.mark.parametrize("host", OTHERS)
def test_python_refuses_other_hosts(host: str, real: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        tls_client.verified(real.roots(NAMES), real.context(host), host)


def test_tls_1_2_works_and_nothing_older(real: Authority) -> None:
    old, context = ssl.TLSVersion.TLSv1_2, real.context("a.test")
    assert tls_client.verified(real.roots(["*"]), context, "a.test", old).version() == "TLSv1.2"
    assert context.minimum_version == old


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_not_resumed(version: ssl.TLSVersion, real: Authority) -> None:
    context = real.context("a.test")
    client = ssl.create_default_context(cadata=real.roots(["*"]).decode())
    client.maximum_version = version
    first, _ = tls_client.shaken(client, context, "a.test")
    assert not (first.session and first.session.has_ticket)
    for _ in range(300):
        tls_client.shaken(client, real.context("a.test"), "a.test", ends=True)
        assert real.context("a.test").session_stats()["number"] <= 256


@pytest.fixture(scope="module")
def server(real: Authority) -> Iterator[int]:
    """A server that is whatever host it is asked for; its port."""
    with tls_client.serving(real.context) as port:
        yield port


def clients() -> list[str]:
    return [name for name, (program, _) in tls_client.CLIENTS.items() if shutil.which(program)]


@pytest.mark.parametrize("name", clients())
def test_a_client_trusts_its_hosts_and_no_other(
    name: str, real: Authority, server: int, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(real.roots(NAMES))

    def run(host: str) -> subprocess.CompletedProcess[str]:
        argv = tls_client.command(name, ca, host, server)
        return subprocess.run(
            argv, input=tls_client.REQUEST, capture_output=True, text=True, timeout=60, check=False
        )

    for host in TRUSTED:
        done = run(host)
        assert tls_client.HELLO in done.stdout, (host, done.stderr)
    for host in OTHERS:
        assert tls_client.HELLO not in run(host).stdout, host


def test_openssl_verifies_strictly(real: Authority, tmp_path: Path) -> None:
    ca, file = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    ca.write_bytes(real.roots(NAMES))
    for hosts, status in ((TRUSTED, 0), (OTHERS, 2)):
        for host in hosts:
            der = leaf(real, host).public_bytes(tls_client.PEM)
            file.write_bytes(der)
            argv = [
                "openssl",
                "verify",
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-CAfile",
                str(ca),
            ]
            done = subprocess.run([*argv, str(file)], capture_output=True, text=True, check=False)
            assert done.returncode == status, (host, done.stdout, done.stderr)


def test_cryptography_is_loaded_by_need(tmp_path: Path) -> None:
    code = "import sys, serai.gate.tls.authority; print('cryptography' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.parametrize("curve", ["prime256v1", "secp521r1"])
def test_a_client_cannot_choose_a_costly_group(authority: Authority, curve: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ecdh_curve(curve)
    server = authority.context("a.test")
    if curve == "prime256v1":
        tls_client.shaken(context, server, "a.test")
        return
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure|no.shared|no.suitable"):
        tls_client.shaken(context, server, "a.test")
