"""A pinned cloud image becomes a base disk; the pin moves by a good signature alone."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serai.image import cloudimage, definition
from serai.image.download import Patience
from serai.image.errors import BuildError
from serai.image.settings import Settings

if TYPE_CHECKING:
    from tests.unit.conftest import Origin

NAME = "ubuntu-22.04-arm64"
FILE = "ubuntu-22.04-server-cloudimg-arm64.img"
OLD = "release-20260913"
NEW = "release-20261004"
HASTE = Patience(attempts=2, seconds=5, pause=0)
PATTERN = random.Random(3).randbytes(1000) * 200


def qemu_img(*arguments: str | Path) -> str:
    argv = ["qemu-img", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 of 2 MiB, compressed as Ubuntu's are, that starts with PATTERN."""
    folder = tmp_path_factory.mktemp("disk")
    raw = folder / "disk.raw"
    raw.write_bytes(PATTERN)
    with raw.open("r+b") as stream:
        stream.truncate(2 << 20)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, folder / "disk.img")
    return folder / "disk.img"


@dataclass
class Site:
    """A checkout with one image, its cache, and the origin that its base is pinned at."""

    settings: Settings
    origin: Origin
    folder: Path

    @property
    def toml(self) -> Path:
        return self.settings.images / f"{NAME}.toml"

    def pin(self, content: bytes, *, size: str = "8M", release: str = OLD) -> None:
        self.origin.files[f"/jammy/{release}/{FILE}"] = content
        self.toml.write_text(
            f"""\
# The product.
name = "{NAME}"
summary = "…"
distribution = "ubuntu"
release = "22.04"
arch = "arm64"

[base]  # what it starts from
kind = "cloud-image"
# Pinned by digest.
url = "{self.origin.url}/jammy/{release}/{FILE}"  # dated
sha256 = "{hashlib.sha256(content).hexdigest()}"

[disk]
size = "{size}"
"""
        )

    def make(self, *overrides: str) -> Path:
        target = self.folder / "stage" / "disk.qcow2"
        target.parent.mkdir(exist_ok=True)
        cloudimage.make(
            definition.load(self.settings, NAME, overrides),
            self.settings,
            target,
            log=self.folder / "log",
            patience=HASTE,
        )
        return target

    def failure(self, *overrides: str) -> str:
        with pytest.raises(BuildError) as caught:
            self.make(*overrides)
        assert "\n" not in str(caught.value)
        assert self.files("stage") == [], "no half disk"
        return str(caught.value)

    def files(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


@pytest.fixture
def site(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("http_proxy", "HTTP_PROXY", "SERAI_CLOUDIMAGE_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "images").mkdir()
    settings = Settings.of({"SERAI_CACHE": str(tmp_path / "cache")}, root=tmp_path)
    return Site(settings, origin, tmp_path)


def test_the_base_is_the_pinned_disk_grown(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    made = site.make()
    info = json.loads(qemu_img("info", "--output=json", made))
    assert info["format"] == "qcow2"
    assert info["virtual-size"] == 8 << 20
    assert "backing-filename" not in info
    raw = site.folder / "raw"
    qemu_img("convert", "-O", "raw", made, raw)
    assert raw.read_bytes() == PATTERN + bytes((8 << 20) - len(PATTERN))
    assert site.files("stage") == ["disk.qcow2"]


def test_the_download_is_kept_by_digest(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.make()
    site.make("disk.size=16M")
    assert len(site.origin.requests) == 1
    sha256 = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert site.files("cache/downloads") == [f"{sha256}.img"]


def test_a_download_gone_bad_is_not_used(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    first = site.make().read_bytes()
    [kept] = (site.folder / "cache/downloads").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert site.make().read_bytes() == first
    assert len(site.origin.requests) == 2


def test_a_flipped_byte_is_refused(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    path = f"/jammy/{OLD}/{FILE}"
    site.origin.files[path] = site.origin.files[path][:-1] + b"x"
    assert "is not the file that was pinned" in site.failure()
    assert site.files("cache/downloads") == []


def test_a_release_that_vanished(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.origin.files.clear()
    message = site.failure()
    assert "answered 404" in message
    assert f"invoke update-base --image {NAME}" in message
    assert "--set base.url=" in message


def test_a_network_that_fails_tells_of_copies(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    message = site.failure(f"base.url=http://no-such-host.invalid/{FILE}")
    assert f"cannot get {FILE} from no-such-host.invalid" in message
    assert "use a copy: --set base.url=" in message


def test_a_local_copy_will_do(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.make(f"base.url={disk.as_uri()}")
    assert site.origin.requests == []


def test_a_disk_larger_than_asked_for(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes(), size="1M")
    assert "is a disk of 2 MiB, larger than disk.size 1M" in site.failure()
    assert site.files("cache/downloads") == []


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"<html>" + bytes(1000)])
def test_what_is_no_qcow2(site: Site, content: bytes) -> None:
    site.pin(content)
    assert "is not a qcow2" in site.failure()


def test_a_backing_file_is_refused(site: Site, disk: Path) -> None:
    secret = site.folder / "secret"
    secret.write_bytes(b"of this machine" * 1000)
    hostile = site.folder / "hostile.img"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, hostile)
    site.pin(hostile.read_bytes())
    assert "has a backing file" in site.failure()


def test_an_external_data_file_is_refused(site: Site) -> None:
    hostile = site.folder / "hostile.img"
    data = site.folder / "data"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", hostile, "1M")
    site.pin(hostile.read_bytes())
    assert "keeps its data in another file" in site.failure()
    # … and before qemu-img, which would open that file, sees it.
    assert "keeps its data in another file" in cloudimage.header_fault(hostile.read_bytes())


def test_a_header_of_the_future_is_refused(site: Site, disk: Path) -> None:
    content = bytearray(disk.read_bytes())
    content[4:8] = struct.pack(">I", 4)
    site.pin(bytes(content))
    assert "unknown version 4" in site.failure()


def test_what_qemu_img_says_is_looked_at_too(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    image = definition.load(site.settings, NAME)
    info = json.loads(qemu_img("info", "--output=json", disk))
    assert cloudimage.info_fault(info, image) == ""
    assert "raw" in cloudimage.info_fault({**info, "format": "raw"}, image)
    assert "/etc/shadow" in cloudimage.info_fault(
        {**info, "backing-filename": "/etc/shadow"}, image
    )
    hostile = {"data": {"data-file": "x"}}
    assert "another file" in cloudimage.info_fault({**info, "format-specific": hostile}, image)


def test_a_failing_conversion_leaves_nothing(site: Site, disk: Path) -> None:
    content = disk.read_bytes()
    tables = 5 * 65536  # header, refcounts, L1, L2; compressed data follow
    site.pin(content[:tables] + b"\xff" * (len(content) - tables))
    assert "qemu-img failed with status 1: " in site.failure()


def test_what_determines_the_base(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    image = definition.load(site.settings, NAME)
    elsewhere = definition.load(site.settings, NAME, [f"base.url={disk.as_uri()}"])
    larger = definition.load(site.settings, NAME, ["disk.size=16M"])
    other = definition.load(site.settings, NAME, [f"base.sha256={'0' * 64}"])
    assert cloudimage.inputs(image) == cloudimage.inputs(elsewhere)
    assert cloudimage.inputs(image) != cloudimage.inputs(larger)
    assert cloudimage.inputs(image) != cloudimage.inputs(other)


# --- moving the pin


@dataclass(frozen=True)
class Key:
    """A signing key in a GNUPGHOME of its own."""

    home: Path
    fingerprint: str

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(argv, check=True, capture_output=True, input=stdin).stdout

    def sign(self, content: bytes, *options: str) -> bytes:
        return self.gpg(*options, "--detach-sign", stdin=content)

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
    made = new_key(folder / "a"), new_key(folder / "b")
    yield made
    for key in made:
        key.end_agent()


@dataclass
class Releases:
    """What the site publishes, and how the pin of the image there is moved."""

    site: Site
    keyring: Path
    fingerprint: str

    def publish(self, release: str, key: Key, *, file: str = FILE) -> str:
        """A release whose image has another digest, which is returned."""
        sha256 = hashlib.sha256(release.encode()).hexdigest()
        sums = f"{'1' * 64} *other-{file}\n{'2' * 64} *{file}.manifest\n{sha256} *{file}\n".encode()
        folder = f"/jammy/{release}/"
        files = self.site.origin.files
        files[f"{folder}SHA256SUMS"] = sums
        files[f"{folder}SHA256SUMS.gpg"] = key.sign(sums, "--armor")  # as Ubuntu does
        link = f'<a href="{release}/">{release}/</a> 2026-10-04\n'
        files["/jammy/"] = files.get("/jammy/", b'<a href="release/">') + link.encode()
        return sha256

    def update(self) -> tuple[str, str]:
        return cloudimage.update_pin(
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
    base = definition.load(releases.site.settings, NAME).base
    assert isinstance(base, definition.CloudImageBase)
    assert base.url == f"{releases.site.origin.url}/jammy/{NEW}/{FILE}"
    assert base.sha256 == hashlib.sha256(NEW.encode()).hexdigest()
    old = definition.CloudImageBase(
        kind="cloud-image",
        url=base.url.replace(NEW, OLD),
        sha256=hashlib.sha256(releases.site.origin.files[f"/jammy/{OLD}/{FILE}"]).hexdigest(),
    )
    after = releases.site.toml.read_text()
    assert after == before.replace(old.url, base.url).replace(old.sha256, base.sha256)
    assert releases.site.toml.stat().st_mode & 0o777 == 0o644
    assert releases.site.files("images") == [f"{NAME}.toml"]
    assert releases.update() == (NEW, NEW)
    assert releases.site.toml.read_text() == after


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
        cloudimage.update_pin(releases.site.settings, f"{NAME}-large")


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
    moved = cloudimage.update_pin(
        releases.site.settings, NAME, releases_url=url, fingerprint=releases.fingerprint
    )
    assert moved == (OLD, NEW)
    monkeypatch.setenv("SERAI_CLOUDIMAGE_KEYRING", "/nonexistent")
    with pytest.raises(BuildError, match="cannot read the keyring /nonexistent"):
        cloudimage.update_pin(releases.site.settings, NAME, fingerprint=releases.fingerprint)


def test_the_key_of_the_key_server(
    releases: Releases, keys: tuple[Key, Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = releases.site.origin
    origin.files[f"/key/{releases.fingerprint}"] = keys[0].gpg("--armor", "--export")
    monkeypatch.setattr(cloudimage, "KEYRING", releases.site.folder / "none")
    monkeypatch.setattr(cloudimage, "KEY_SERVER", f"{origin.url}/key/")
    moved = cloudimage.update_pin(
        releases.site.settings, NAME, fingerprint=releases.fingerprint, patience=HASTE
    )
    assert moved == (OLD, NEW)


def test_who_signed_well() -> None:
    def valid(signer: str) -> str:
        return f"[GNUPG:] VALIDSIG {signer}SUB 2026-10-04 1 0 4 0 1 10 00 {signer}"

    status = ["[GNUPG:] NEWSIG", "[GNUPG:] GOODSIG AA Name of A", valid("AA")]
    assert cloudimage.good_signers("\n".join(status)) == {"AA"}
    status += ["[GNUPG:] NEWSIG", "[GNUPG:] EXPKEYSIG BB Name GOODSIG", valid("BB")]
    status += ["[GNUPG:] REVKEYSIG CC Name of C", valid("CC"), "[GNUPG:] BADSIG DD Name of D"]
    assert cloudimage.good_signers("\n".join(status)) == {"AA"}
    assert cloudimage.good_signers("") == set()
