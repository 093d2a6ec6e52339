"""The cache of stages that build hosts share, and whose stages are trusted.

An entry holds what a stage in the cache holds, with the digests of its files in SHA256SUMS and a
signature of that list. It is used if one of the keys in SERAI_CACHE_SIGNERS signed the list, the
files are those on it, and the record is that of the very stage that is asked for, key and all.
Where it lies, and who could write there, counts for nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from serai.image import cache, console, digest, layout, sign
from serai.image.build import age
from serai.image.build.plan import DISK, LOG, RECORD, Stage
from serai.image.build.remote_places import Place, Repository, SharedDirectory
from serai.image.definition.definition import Image, megabytes
from serai.image.errors import BuildError
from serai.image.settings import Settings

NAMESPACE = "serai-stage"
"""What the signatures are for: a release's does not count for a stage, nor the other way."""

SIGNER = "signer"
"""The key in the record of a stage that somebody else made: who signed it."""

_CONTENT = (RECORD, LOG, DISK)
_NAMES = (layout.SUMS, layout.SIGNATURE, *_CONTENT)
_HEADROOM = 64 << 20  # bytes that an entry may have beyond the disk's
_LARGEST_TEXT = 64 << 10  # bytes of SHA256SUMS and of its signature


class _AbsentError(Exception):
    """The shared cache has nothing for a stage."""


@dataclass(frozen=True)
class SharedCache:
    """A shared cache: ``name`` for people, whom to believe, and our own key ('' without one)."""

    name: str
    place: Place
    signers: Path
    key: Path | None

    def fetch(self, image: Image, stage: Stage, previous: Path | None) -> bool:
        """Have the result of ``stage`` from there in the cache, to stand on the disk ``previous``.

        False, after a line that says why, if what is there cannot be used, and without one if
        nothing is there.
        """
        if stage.limit.fresh:
            return False
        most, begin = (megabytes(image.disk.size) << 20) + _HEADROOM, time.monotonic()
        what = f"{stage.name} {stage.key[:8]}"
        try:
            with cache.whole(stage.folder, replace=True) as folder:
                if not self.place.get(_entry(stage), folder, _NAMES, most=most):
                    raise _AbsentError
                signer = self._accept(stage, folder, previous)
        except _AbsentError:
            return False
        except (BuildError, OSError) as error:
            console.warn(f"{what} of {self.name} is not used, and built here: {_told(error)}")
            return False
        took = console.seconds(time.monotonic() - begin)
        console.say(f"✓ {stage.name} (shared {stage.key[:8]}, signed by {signer}, {took})")
        return True

    def offer(self, image: Image, stage: Stage, *, built: bool) -> None:
        """Put ``stage`` there, signed with our key, if it is new or missing there.

        What another one's key signed is left to that one, and what does not say how old it is stays
        here. A failure is a line, and no more.
        """
        record = stage.record()
        if self.key is None or SIGNER in record or age.BASE_MADE not in record:
            return
        try:
            if built or not self.place.has(_entry(stage)):
                with console.step(f"put {stage.name} into the shared cache"):
                    self._put(image, stage, self.key)
        except (BuildError, OSError) as error:
            what = f"{stage.name} {stage.key[:8]}"
            console.warn(f"{what} is not put into {self.name}: {_told(error)}")

    def _put(self, image: Image, stage: Stage, key: Path) -> None:
        with tempfile.TemporaryDirectory(
            dir=stage.folder.parent, prefix=f".{stage.folder.name}."
        ) as name:
            work = Path(name)
            content = {each: stage.folder / each for each in _CONTENT}
            sums = {each: digest.of_file(path) for each, path in content.items()}
            (work / layout.SUMS).write_text(sign.sums(sums), encoding="ascii")
            sign.sign(work, key, NAMESPACE)
            signed = {each: work / each for each in (layout.SUMS, layout.SIGNATURE)}
            self.place.put(_entry(stage), {**signed, **content}, arch=image.arch)

    def _accept(self, stage: Stage, folder: Path, previous: Path | None) -> str:
        """Who signed the ``stage`` in ``folder``; notes it in its record, too.

        Raises BuildError if it is not as it must be.
        """
        sums, signature = (_small(folder / name) for name in (layout.SUMS, layout.SIGNATURE))
        # latin-1 is any bytes: what is verified are just these.
        signer = sign.signer(sums.decode("latin-1"), signature, self.signers, NAMESPACE)
        try:
            listed = sign.parse(sums.decode("ascii"))
        except ValueError as error:
            raise BuildError(f"{layout.SUMS} has {error}") from None
        if set(listed) != set(_CONTENT):
            raise BuildError(f"{layout.SUMS} lists other files than a stage has")
        for name, promised in listed.items():
            if digest.of_file(folder / name) != promised:
                raise BuildError(f"{name} is not the file that {signer} signed")
        path = folder / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found, _ = f"{record['stage']} {record['key']}", record[age.BASE_MADE]
            fault = stage.limit.fault(path, previous.with_name(RECORD) if previous else None)
        except (ValueError, LookupError, TypeError):
            raise BuildError(f"{RECORD}, as {signer} signed it, cannot be read") from None
        if found != f"{stage.name} {stage.key}":
            raise BuildError(f"it is another stage that {signer} signed, {found[:24]}")
        if fault:
            raise BuildError(fault)
        for name in (layout.SUMS, layout.SIGNATURE):
            (folder / name).unlink()
        path.write_text(json.dumps({**record, SIGNER: signer}, indent=2) + "\n", encoding="utf-8")
        return signer


def of(settings: Settings) -> SharedCache | None:
    """The shared cache of the settings, if they name one.

    Raises BuildError if they do not say whose stages are trusted, or name what is not there.
    """
    name = settings.cache_remote
    if not name:
        return None
    if not settings.cache_signers:
        raise BuildError(
            f"{settings.called('cache_remote')} names a shared cache, and nothing says whose "
            "stages to trust",
            hint="SERAI_CACHE_SIGNERS=FILE, see ALLOWED SIGNERS in ssh-keygen(1)",
        )
    signers = _existing(settings.called("cache_signers"), settings.cache_signers)
    key = (
        _existing(settings.called("cache_sign_key"), settings.cache_sign_key)
        if settings.cache_sign_key
        else None
    )
    return SharedCache(name, _place(name, settings.called("cache_remote")), signers, key)


def _place(name: str, setting: str) -> Place:
    kind, colon, rest = name.partition(":")
    if kind in ("docker", "oci") and colon:
        last = rest.rpartition("/")[2]
        if "@" in last or ":" in last or not rest.strip("/"):
            raise BuildError(
                f"{setting}: {name!r} is not a repository",
                hint="docker://HOST/NAME or oci:/DIRECTORY, without a tag",
            )
        return Repository(name)
    if "://" in name and kind != "file":
        raise BuildError(
            f"{setting}: there is no shared cache of the kind {kind!r}",
            hint="a directory, file:///DIRECTORY, docker://HOST/NAME or oci:/DIRECTORY",
        )
    root = Path(name.removeprefix("file://")).expanduser().absolute()
    if not root.is_dir():
        raise BuildError(f"{setting}: there is no directory {root}", hint="make it, or mount it")
    return SharedDirectory(root)


def _existing(setting: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise BuildError(f"{setting}: there is no file {path}")
    return path


def _entry(stage: Stage) -> Path:
    """Where the stage lies in a cache, this host's or a shared one."""
    return Path(stage.name) / stage.folder.name


def _small(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_TEXT:
        raise BuildError(f"{path.name} is too large to be one")
    return path.read_bytes()


def _told(error: BuildError | OSError) -> str:
    if isinstance(error, BuildError):
        return error.message
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
