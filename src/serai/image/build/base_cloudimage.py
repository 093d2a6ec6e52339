"""The base that is an official cloud image: fetched by its pinned digest, checked, made ours.

``make`` needs only the pin. ``update_pin`` moves it to the newest signed release.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import tomlkit

from serai.common import files
from serai.image import cache, console, qcow2
from serai.image.build import download
from serai.image.build.download import PATIENCE, Patience, Progress
from serai.image.definition import definition
from serai.image.definition.definition import CloudImageBase, Image, megabytes
from serai.image.errors import BuildError
from serai.image.run import last_lines, run
from serai.image.settings import Settings

# "UEC Image Automatic Signing Key"; whoever serves the key, this is what it is trusted by.
FINGERPRINT = "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81"
KEYRING = Path("/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg")
KEY_SERVER = "https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x"

_COPY = (
    "check the network and the proxy variables, or use a copy: "
    "--set base.url=https://… or --set base.url=file:///…"
)
_RELEASE = re.compile(r"release-(\d{8})(?:\.(\d+))?")
_HEADROOM = 64 << 20  # bytes that a qcow2 may have beyond the disk's
# A list may be signed some days before the directory that it ends up in is named.
_SIGNED_BEFORE = timedelta(days=7)
_PINNED_URL = re.compile(rf"(?P<series>\S+/)(?P<release>{_RELEASE.pattern})/(?P<file>[^/\s]+)")


def inputs(image: Image) -> dict[str, object]:
    """What determines the base disk; the address does not, since the digest does."""
    base = _base(image)
    return {"base.kind": base.kind, "base.sha256": base.sha256, "disk.size": image.disk.size}


def make(
    image: Image,
    settings: Settings,
    target: Path,
    *,
    log: Path,
    progress: Progress | None = None,
    patience: Patience = PATIENCE,
) -> None:
    """Make ``target``: the pinned cloud image as a qcow2 of ``disk.size`` that stands alone.

    The download is kept in the cache by its digest, and digested again each time it is used:
    about 2 s, once per changed base, against building on what a bad disk made of it.

    Raises BuildError if the image cannot be had, is not the one pinned, is no qcow2, refers to
    another file, or is larger than ``disk.size``. ``target`` is whole or not there.
    """
    base = _base(image)
    source = settings.cache / "downloads" / f"{base.sha256}.img"
    try:
        download.fetch(
            base.url,
            source,
            sha256=base.sha256,
            limit=(megabytes(image.disk.size) << 20) + _HEADROOM,
            progress=progress or _lines(),
            hint=_COPY,
            patience=patience,
        )
    except download.MissingError as error:
        moved = f"dated releases vanish: run 'invoke update-base --image {image.name}', or use a"
        raise BuildError(
            error.message, hint=f"{moved} copy: --set base.url=https://… or file:///…"
        ) from None
    try:
        check(source, image)
    except BuildError:
        source.unlink()
        raise
    with files.draft(target) as temporary:
        # A conversion, not a copy: of a stranger's metadata (snapshots, bitmaps, flags) none
        # survives, and what the build boots was written by this host's own qemu-img.
        _qemu_img("convert", "-f", "qcow2", "-O", "qcow2", source, temporary, log=log)
        _qemu_img("resize", "-q", "-f", "qcow2", temporary, image.disk.size, log=log)
        check(temporary, image)
        files.fsync(temporary)
    files.fsync(target.parent)


def check(path: Path, image: Image) -> None:
    """Raise BuildError unless ``path`` is a qcow2 that stands alone and fits into ``disk.size``."""
    fault = qcow2.fault_of(path) or info_fault(_info(path), image)
    if fault:
        raise BuildError(
            f"the base of {image.name} {fault}", hint="correct base.url, base.sha256 or disk.size"
        )


def info_fault(info: dict[str, Any], image: Image) -> str:
    """What is wrong with an image of which qemu-img says ``info``; '' if nothing is."""
    if info.get("format") != "qcow2":
        return f"is {info.get('format')}, not qcow2"
    for key in ("backing-filename", "full-backing-filename"):
        if key in info:
            return f"has the backing file {info[key]}"
    if "data-file" in info.get("format-specific", {}).get("data", {}):
        return "keeps its data in another file"
    size = int(info["virtual-size"])
    if size > megabytes(image.disk.size) << 20:
        return f"is a disk of {size >> 20} MiB, larger than disk.size {image.disk.size}"
    return ""


def update_pin(
    settings: Settings,
    name: str,
    *,
    releases_url: str | None = None,
    keyring: Path | None = None,
    fingerprint: str = FINGERPRINT,
    patience: Patience = PATIENCE,
) -> tuple[str, str]:
    """Move the pin of ``name`` to the newest dated release; return the old and the new release.

    ``releases_url`` is the folder of dated releases, by default the one the present pin is in.
    The key comes from ``keyring`` or SERAI_CLOUDIMAGE_KEYRING, else from Ubuntu's package
    ubuntu-cloudimage-keyring, else from Ubuntu's key server.

    Raises BuildError if the network, the listing, the signature or the list of digests is not as
    it must be; the definition is then what it was.
    """
    image, sources = definition.load_with_sources(settings, name)
    pinned = _PINNED_URL.fullmatch(_base(image).url)
    if (where := sources["base.url"]) != f"images/{name}.toml":
        raise BuildError(
            f"{name} has its base from {where}",
            hint=f"run 'invoke update-base --image {Path(where).stem}'",
        )
    if pinned is None:
        raise BuildError(
            f"images/{name}.toml: base.url is not …/release-YYYYMMDD/FILE, so what is newer than "
            "it cannot be told",
            hint="set base.url and base.sha256 by hand",
        )
    series = releases_url or pinned["series"]
    listing = download.read(series, patience=patience).decode(errors="replace")
    release = newest(listing)
    if not release:
        raise BuildError(f"{series} lists no dated release", hint="look at it in a browser")
    if _age(release) < _age(pinned["release"]):
        raise BuildError(
            f"the newest release at {series} is {release}, older than the pinned "
            f"{pinned['release']}",
            hint="nothing is changed; try another day, or set base.url and base.sha256 by hand",
        )
    folder = f"{series}{release}/"
    sums = download.read(f"{folder}SHA256SUMS", patience=patience)
    signature = download.read(f"{folder}SHA256SUMS.gpg", patience=patience)
    signed = verify(sums, signature, _keys(keyring, fingerprint, patience), fingerprint)
    if why := age_fault(signed, release, _base(image).signed):
        raise BuildError(
            f"{folder}SHA256SUMS {why}",
            hint="nothing is changed; the mirror shows an old release as a new one, try another",
        )
    sha256 = digest_of(sums.decode(errors="replace"), pinned["file"])
    if not sha256:
        raise BuildError(
            f"{folder}SHA256SUMS does not list {pinned['file']}",
            hint="nothing is changed; the release may still be on its way, try later",
        )
    _rewrite(definition.path_of(settings, name), f"{folder}{pinned['file']}", sha256, signed)
    return pinned["release"], release


def newest(listing: str) -> str:
    """The newest release that a listing links to, such as 'release-20260913'; '' if none."""
    found = {match.group() for match in _RELEASE.finditer(listing)}
    return max(found, key=_age, default="")


def digest_of(sums: str, file: str) -> str:
    """The SHA-256 of ``file`` in the text of a SHA256SUMS; '' if it is not there."""
    match = re.search(rf"^([0-9a-f]{{64}}) [ *]{re.escape(file)}$", sums, re.MULTILINE)
    return match[1] if match else ""


def age_fault(signed: datetime, release: str, before: datetime | None) -> str:
    """Why a list of digests is not that of ``release``, a directory's name; '' if it can be.

    The name is the mirror's word alone, when the list was signed is not. ``before`` is when the
    list of the present pin was.
    """
    if before is not None and signed < before:
        return f"was signed on {signed:%Y-%m-%d}, before that of the present pin"
    year_month, day = divmod(_age(release)[0], 100)
    try:
        named = datetime(*divmod(year_month, 100), day, tzinfo=timezone.utc)
    except ValueError:
        return f"is in {release}, which is no date"
    if signed < named - _SIGNED_BEFORE:
        return f"was signed on {signed:%Y-%m-%d}, long before {release}"
    return ""


def verify(content: bytes, signature: bytes, keys: bytes, fingerprint: str) -> datetime:
    """When ``signature``, a good one of ``content`` by just that key, was made.

    ``keys`` may hold other keys (and comes from a stranger): they count for nothing. Raises
    BuildError if there is no such signature.
    """
    with tempfile.TemporaryDirectory(prefix="serai-gpgv-") as folder:
        files = {"keys.gpg": keys, "signature": signature, "content": content}
        paths = {name: Path(folder) / name for name in files}
        for name, value in files.items():
            paths[name].write_bytes(value)
        done = run(
            ["gpgv", "--homedir", folder, "--status-fd", "1", "--keyring", *paths.values()],
            check=False,
            timeout=30,
        )
    # Not gpgv's exit status: that is bad too when one of several signers is unknown to it.
    signed = good_signers(done.stdout).get(fingerprint)
    if signed is None:
        said = last_lines(done.stderr, 2)
        raise BuildError(
            f"the signature of SHA256SUMS is not a good one by the key {fingerprint}: {said}",
            hint="nothing is changed; if this stays so, do not use that release",
        )
    return signed


def good_signers(status: str) -> dict[str, datetime]:
    """When the good signatures in what gpgv says on --status-fd were made.

    By the primary key's fingerprint; of several by one key the oldest counts.

    A VALIDSIG alone is not enough: it follows EXPKEYSIG and REVKEYSIG too. (doc/DETAILS of GnuPG)
    """
    signers: dict[str, datetime] = {}
    good = False
    for line in status.splitlines():
        words = line.split()[1:]
        if not words:
            continue
        if words[0] == "VALIDSIG" and good:
            signer = words[10] if len(words) > 10 else words[1]  # noqa: PLR2004
            made = datetime.fromtimestamp(int(words[3]), timezone.utc)
            signers[signer] = min(made, signers.get(signer, made))
        elif words[0].endswith("SIG"):
            good = words[0] == "GOODSIG"
    return signers


def dearmoured(key: bytes) -> bytes:
    """The key as gpgv reads it; a key server sends it in ASCII armour (RFC 9580, section 6)."""
    if not key.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        return key
    lines = [line.strip() for line in key.strip().splitlines()]
    body = lines[lines.index(b"") + 1 : -1] if b"" in lines else []
    try:
        return base64.b64decode(b"".join(x for x in body if not x.startswith(b"=")), validate=True)
    except binascii.Error:
        raise BuildError("the key is no OpenPGP key", hint="see SERAI_CLOUDIMAGE_KEYRING") from None


def _keys(keyring: Path | None, fingerprint: str, patience: Patience) -> bytes:
    given = keyring or os.environ.get("SERAI_CLOUDIMAGE_KEYRING")
    if given or KEYRING.exists():
        path = Path(given or KEYRING)
        try:
            return dearmoured(path.read_bytes())
        except OSError as error:
            raise BuildError(
                f"cannot read the keyring {path}: {error.strerror}",
                hint="correct SERAI_CLOUDIMAGE_KEYRING, or unset it",
            ) from None
    hint = "check the network, or name a file with the key: SERAI_CLOUDIMAGE_KEYRING=…"
    return dearmoured(download.read(f"{KEY_SERVER}{fingerprint}", hint=hint, patience=patience))


def _rewrite(path: Path, url: str, sha256: str, signed: datetime) -> None:
    document: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    document["base"]["url"] = url
    document["base"]["sha256"] = sha256
    document["base"]["signed"] = signed
    cache.write(path, tomlkit.dumps(document))


def _age(release: str) -> tuple[int, int]:
    match = _RELEASE.fullmatch(release)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _base(image: Image) -> CloudImageBase:
    if not isinstance(image.base, CloudImageBase):
        raise BuildError(
            f"{image.name} is made from a package mirror, it has no cloud image to pin",
            hint="images whose base.kind is cloud-image have one",
        )
    return image.base


def _info(path: Path) -> dict[str, Any]:
    said = _qemu_img("info", "-f", "qcow2", "--output=json", path)
    loaded: dict[str, Any] = json.loads(said)
    return loaded


def _qemu_img(*arguments: str | Path, log: Path | None = None) -> str:
    try:
        return run(["qemu-img", *arguments], log=log, timeout=1800).stdout
    except BuildError as error:
        if "No space left" in error.message:
            error.hint = "free some room, or set SERAI_CACHE to a directory on a larger disk"
        raise


def _lines() -> Progress:
    """Progress as one line each tenth of the way, the same on a terminal and in a file."""
    shown = -1

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        if total and (tenth := done * 10 // total) > shown:
            shown = tenth
            console.say(f"  {tenth * 10:3} % of {total >> 20} MiB")

    return show
