"""A cloud image's pin moves by a good signature alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from serai.image.build import base_cloudimage
from serai.image.definition import definition
from serai.image.errors import BuildError
from tests.support.cloud_image_site import FILE, HASTE, NAME, OLD, Site

NEW = "release-20261004"


@dataclass(frozen=True)
class Key:
    """A signing key in a GNUPGHOME of its own."""

    home: Path
    fingerprint: str

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(argv, check=True, capture_output=True, input=stdin).stdout

    def sign(self, content: bytes, *options: str, day: str = NEW[8:]) -> bytes:
        """A signature that is made on ``day``."""
        clock = f"--faked-system-time={day}T120000!"
        return self.gpg(clock, *options, "--detach-sign", stdin=content)

    def end_agent(self) -> None:
        subprocess.run(["/usr/bin/gpgconf", "--homedir", self.home, "--kill", "all"], check=True)


def new_key(home: Path, *options: str, expire: str = "never") -> Key:
    home.mkdir(mode=0o700)
    key = Key(home, "")
    protect = ("--passphrase", "", "--pinentry-mode", "loopback", *options)
    who = "Test <test@example.org>"
    key.gpg(*protect, "--quick-generate-key", who, "ed25519", "sign", expire)
    listed = key.gpg("--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line[:3] == "fpr")
    return Key(home, fingerprint)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key]]:
    """The key that is trusted, and another of the same name."""
    folder = tmp_path_factory.mktemp("k")
    past = "--faked-system-time=20200101T000000!"
    made = new_key(folder / "a", past), new_key(folder / "b", past)
    yield made
    for key in made:
        key.end_agent()


@dataclass
class Releases:
    """What the site publishes, and how the pin of the image there is moved."""

    site: Site
    keyring: Path
    fingerprint: str

    def publish(self, release: str, key: Key, *, file: str = FILE, day: str = "") -> str:
        """A release whose image has another digest, which is returned; signed on ``day``."""
        sha256 = hashlib.sha256(release.encode()).hexdigest()
        sums = f"{'1' * 64} *other-{file}\n{'2' * 64} *{file}.manifest\n{sha256} *{file}\n".encode()
        folder = f"/jammy/{release}/"
        files = self.site.origin.files
        files[f"{folder}SHA256SUMS"] = sums
        files[f"{folder}SHA256SUMS.gpg"] = key.sign(
            sums, "--armor", day=day or release[8:16]
        )  # as Ubuntu does
        link = f'<a href="{release}/">{release}/</a> 2026-10-04\n'
        files["/jammy/"] = files.get("/jammy/", b'<a href="release/">') + link.encode()
        return sha256

    def update(self) -> tuple[str, str]:
        return base_cloudimage.update_pin(
            self.site.settings,
            NAME,
            keyring=self.keyring,
            fingerprint=self.fingerprint,
            patience=HASTE,
        )

    def refused(self, why: str) -> None:
        before = self.site.toml.read_bytes()
        with pytest.raises(BuildError, match=why) as caught:
            self.update()
        assert "\n" not in str(caught.value)
        assert self.site.toml.read_bytes() == before
        assert self.site.files("images") == [f"{NAME}.toml"]


@pytest.fixture
def releases(site: Site, disk: Path, keys: tuple[Key, Key]) -> Releases:
    site.pin(disk.read_bytes())
    keyring = site.folder / "keyring.gpg"
    keyring.write_bytes(keys[0].gpg("--export"))
    made = Releases(site, keyring, keys[0].fingerprint)
    for release in ("release-20240101", OLD, "release-20260926", NEW, "release-20250101"):
        made.publish(release, keys[0])
    return made


def test_the_pin_moves_and_comments_stay(releases: Releases, keys: tuple[Key, Key]) -> None:
    before = releases.site.toml.read_text()
    assert releases.update() == (OLD, NEW)
    loaded = definition.load(releases.site.settings, NAME)
    assert json.dumps(definition.flat(loaded)), "it is in a build's manifest, too"
    base = loaded.base
    assert isinstance(base, definition.CloudImageBase)
    assert base.url == f"{releases.site.origin.url}/jammy/{NEW}/{FILE}"
    assert base.sha256 == hashlib.sha256(NEW.encode()).hexdigest()
    old = definition.CloudImageBase(
        kind="cloud-image",
        url=base.url.replace(NEW, OLD),
        sha256=hashlib.sha256(releases.site.origin.files[f"/jammy/{OLD}/{FILE}"]).hexdigest(),
    )
    after = releases.site.toml.read_text()
    moved = before.replace(old.url, base.url).replace(old.sha256, base.sha256)
    assert base.signed is not None
    signed = f"signed = {base.signed.isoformat().replace('+00:00', 'Z')}\n"
    assert after.replace(signed, "").replace("\n\n", "\n") == moved.replace("\n\n", "\n")
    assert releases.site.toml.stat().st_mode & 0o777 == 0o644
    assert releases.site.files("images") == [f"{NAME}.toml"]
    assert releases.update() == (NEW, NEW)
    assert releases.site.toml.read_text() == after


def test_an_old_list_under_a_new_name_is_refused(releases: Releases, keys: tuple[Key, Key]) -> None:
    """What a mirror can do that shows an old release as the newest: the name is not signed."""
    releases.publish("release-20261101", keys[0], day="20240101")
    releases.refused("SHA256SUMS was signed on 2024-01-01, long before release-20261101")
    releases.publish("release-20261101", keys[0], day="20261026")
    assert releases.update() == (OLD, "release-20261101"), "some days are usual"


def test_without_a_look_at_its_time_it_is_taken(
    releases: Releases, keys: tuple[Key, Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.publish("release-20261101", keys[0], day="20240101")
    monkeypatch.setattr(base_cloudimage, "age_fault", lambda *_: "")
    assert releases.update() == (OLD, "release-20261101")


def test_a_list_older_than_the_pins_is_refused(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.publish(NEW, keys[0], day="20261010")
    assert releases.update() == (OLD, NEW)
    releases.publish("release-20261012", keys[0], day="20261009")
    releases.refused("SHA256SUMS was signed on 2026-10-09, before that of the present pin")
    releases.publish("release-20261012", keys[0], day="20261012")
    assert releases.update() == (NEW, "release-20261012")


def test_a_release_of_no_date_is_refused(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.publish("release-20991399", keys[0], day="20261004")
    releases.refused("SHA256SUMS is in release-20991399, which is no date")


def test_a_respin_of_a_day_is_newer(releases: Releases, keys: tuple[Key, Key]) -> None:
    for respin in (f"{NEW}.2", f"{NEW}.10", f"{NEW}.9"):
        releases.publish(respin, keys[0])
    assert releases.update() == (OLD, f"{NEW}.10")


def test_a_changed_list_is_refused(releases: Releases) -> None:
    files = releases.site.origin.files
    path = f"/jammy/{NEW}/SHA256SUMS"
    files[path] = files[path].replace(b"1111", b"3333")
    releases.refused("not a good one by the key .*BAD signature")


def test_the_signature_of_another_key_is_refused(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.publish(NEW, keys[1])
    releases.refused("not a good one by the key .*No public key")


def test_another_key_in_the_keyring_counts_for_nothing(
    releases: Releases, keys: tuple[Key, Key]
) -> None:
    releases.keyring.write_bytes(keys[0].gpg("--export") + keys[1].gpg("--export"))
    releases.publish(NEW, keys[1])
    releases.refused("not a good one by the key")


def test_a_key_server_that_sends_another_key(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.keyring.write_bytes(keys[1].gpg("--armor", "--export"))
    releases.publish(NEW, keys[1])
    releases.refused("not a good one by the key")


def test_an_expired_key_is_refused(releases: Releases, tmp_path: Path) -> None:
    past = ("--faked-system-time", "20200101T000000!")
    key = new_key(tmp_path / "k", *past, expire="1y")
    releases.fingerprint = key.fingerprint
    releases.keyring.write_bytes(key.gpg("--export"))
    folder = f"/jammy/{NEW}/"
    files = releases.site.origin.files
    signature = key.gpg(*past, "--detach-sign", stdin=files[f"{folder}SHA256SUMS"])
    files[f"{folder}SHA256SUMS.gpg"] = signature
    key.end_agent()
    releases.refused("not a good one by the key")


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.gpg"])
def test_a_missing_list_or_signature(releases: Releases, name: str) -> None:
    del releases.site.origin.files[f"/jammy/{NEW}/{name}"]
    releases.refused(f"cannot get {name} from 127.0.0.1: the server answered 404")


def test_a_second_signature_does_no_harm(releases: Releases, keys: tuple[Key, Key]) -> None:
    files = releases.site.origin.files
    signature = f"/jammy/{NEW}/SHA256SUMS.gpg"
    sums = files[f"/jammy/{NEW}/SHA256SUMS"]
    files[signature] = keys[1].sign(sums) + keys[0].sign(sums)
    assert releases.update() == (OLD, NEW)


@pytest.mark.parametrize("how", ["--sign", "--clearsign"])
def test_another_text_by_the_right_key(releases: Releases, keys: tuple[Key, Key], how: str) -> None:
    other = keys[0].gpg(how, stdin=b"something else")
    releases.site.origin.files[f"/jammy/{NEW}/SHA256SUMS.gpg"] = other
    releases.refused("not a good one by the key")


def test_an_empty_signature(releases: Releases) -> None:
    releases.site.origin.files[f"/jammy/{NEW}/SHA256SUMS.gpg"] = b""
    releases.refused("not a good one by the key")


def test_a_list_without_the_image(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.publish(NEW, keys[0], file="ubuntu-22.04-server-cloudimg-riscv64.img")
    releases.refused("SHA256SUMS does not list ubuntu-22.04-server-cloudimg-arm64.img")


def test_the_pin_never_goes_back(releases: Releases, keys: tuple[Key, Key]) -> None:
    releases.site.origin.files["/jammy/"] = b'<a href="release-20240101/">'
    releases.refused("older than the pinned release-20260913")


def test_a_listing_without_releases(releases: Releases) -> None:
    releases.site.origin.files["/jammy/"] = b"<html>Please log in</html>"
    releases.refused("lists no dated release")


def test_no_network(releases: Releases) -> None:
    text = releases.site.toml.read_text()
    releases.site.toml.write_text(text.replace("127.0.0.1", "no-such-host.invalid"))
    releases.refused("cannot get /jammy/ from no-such-host.invalid")


def test_a_pin_without_a_date(releases: Releases) -> None:
    text = releases.site.toml.read_text()
    releases.site.toml.write_text(text.replace(OLD, "current"))
    releases.refused("base.url is not …/release-YYYYMMDD/FILE")


def test_a_flavours_pin_is_that_of_its_image(releases: Releases) -> None:
    flavour = releases.site.toml.with_name(f"{NAME}-large.toml")
    flavour.write_text(f'name = "{NAME}-large"\nflavour_of = "{NAME}"\n')
    with pytest.raises(BuildError, match=rf"run 'invoke update-base --image {NAME}'"):
        base_cloudimage.update_pin(releases.site.settings, f"{NAME}-large")


def test_a_bootstrapped_image_has_no_pin(releases: Releases) -> None:
    text = releases.site.toml.read_text()
    start = text.index("[base]")
    base = '[base]\nkind = "bootstrap"\nsuite = "jammy"\n'
    releases.site.toml.write_text(text[:start] + base)
    releases.refused("has no cloud image to pin")


def test_the_keyring_of_the_environment(
    releases: Releases, keys: tuple[Key, Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    armoured = releases.site.folder / "key.asc"
    armoured.write_bytes(keys[0].gpg("--armor", "--export"))
    monkeypatch.setenv("SERAI_CLOUDIMAGE_KEYRING", str(armoured))
    url = f"{releases.site.origin.url}/jammy/"
    moved = base_cloudimage.update_pin(
        releases.site.settings, NAME, releases_url=url, fingerprint=releases.fingerprint
    )
    assert moved == (OLD, NEW)
    monkeypatch.setenv("SERAI_CLOUDIMAGE_KEYRING", "/nonexistent")
    with pytest.raises(BuildError, match="cannot read the keyring /nonexistent"):
        base_cloudimage.update_pin(releases.site.settings, NAME, fingerprint=releases.fingerprint)


def test_the_key_of_the_key_server(
    releases: Releases, keys: tuple[Key, Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = releases.site.origin
    origin.files[f"/key/{releases.fingerprint}"] = keys[0].gpg("--armor", "--export")
    monkeypatch.setattr(base_cloudimage, "KEYRING", releases.site.folder / "none")
    monkeypatch.setattr(base_cloudimage, "KEY_SERVER", f"{origin.url}/key/")
    moved = base_cloudimage.update_pin(
        releases.site.settings, NAME, fingerprint=releases.fingerprint, patience=HASTE
    )
    assert moved == (OLD, NEW)


def test_who_signed_well() -> None:
    def valid(signer: str, day: int = 4) -> str:
        seconds = int(datetime(2026, 10, day, tzinfo=timezone.utc).timestamp())
        return f"[GNUPG:] VALIDSIG {signer}SUB 2026-10-{day:02} {seconds} 0 4 0 1 10 00 {signer}"

    first = {"AA": datetime(2026, 10, 4, tzinfo=timezone.utc)}
    status = ["[GNUPG:] NEWSIG", "[GNUPG:] GOODSIG AA Name of A", valid("AA")]
    assert base_cloudimage.good_signers("\n".join(status)) == first
    status += ["[GNUPG:] NEWSIG", "[GNUPG:] EXPKEYSIG BB Name GOODSIG", valid("BB")]
    status += ["[GNUPG:] REVKEYSIG CC Name of C", valid("CC"), "[GNUPG:] BADSIG DD Name of D"]
    assert base_cloudimage.good_signers("\n".join(status)) == first
    status += ["[GNUPG:] NEWSIG", "[GNUPG:] GOODSIG AA Name of A", valid("AA", 9)]
    assert base_cloudimage.good_signers("\n".join(status)) == first, "the oldest counts"
    assert base_cloudimage.good_signers("") == {}
