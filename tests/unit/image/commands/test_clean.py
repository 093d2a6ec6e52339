"""What `invoke clean` removes: builds and the cache. Releases and files of others stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serai.image.commands import clean
from serai.image.errors import BuildError
from serai.image.settings import Settings

IMAGE = "debian-12-amd64"


@pytest.fixture
def used(checkout: Settings) -> Settings:
    """A dist/ with a build, a release and files of others, and a cache."""
    home = checkout.dist / IMAGE
    for version in ("0.1.0-aaaaaaaa", "1.0.0"):
        (home / version).mkdir(parents=True)
        (home / version / "manifest.json").write_text(json.dumps({"image": IMAGE}))
    (home / "1.0.0" / "provenance.json").touch()
    (home / "latest").symlink_to("0.1.0-aaaaaaaa")
    (home / ".release.lock").touch()
    (home / "notes.txt").touch()
    for path in ("precious/file", "other/1/manifest.json"):
        (checkout.dist / path).parent.mkdir(parents=True)
        (checkout.dist / path).write_text("{}")
    (checkout.dist / "python").mkdir()
    (checkout.dist / "python/SHA256SUMS").touch()
    (checkout.dist / "here.txt").touch()
    for name in ("stages", "downloads", "pythons", "tmpabcd_123"):
        (checkout.cache / name).mkdir(parents=True)
    return checkout


def left(settings: Settings) -> list[str]:
    found = settings.dist.rglob("*")
    return sorted(str(path.relative_to(settings.dist)) for path in found if not path.is_dir())


KEPT = [
    f"{IMAGE}/.release.lock",
    f"{IMAGE}/1.0.0/manifest.json",
    f"{IMAGE}/1.0.0/provenance.json",
    f"{IMAGE}/notes.txt",
    "here.txt",
    "other/1/manifest.json",
    "precious/file",
]


def test_builds_go_and_the_rest_stays_and_is_named(
    used: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    clean.clean(used, cache=False)
    assert left(used) == KEPT
    assert used.cache.exists()
    said = capsys.readouterr().out.splitlines()
    assert f"removed {used.dist / IMAGE / '0.1.0-aaaaaaaa'}" in said
    assert f"kept {used.dist / IMAGE / '1.0.0'}: a release" in said
    assert f"kept {used.dist}/precious/file: no build made it" in said
    assert f"kept {used.dist}/here.txt: no build made it" in said


def test_an_image_of_builds_alone_goes_with_them(used: Settings) -> None:
    for name in ("notes.txt", "1.0.0"):
        path = used.dist / IMAGE / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    clean.clean(used, cache=False)
    assert not (used.dist / IMAGE).exists()


def test_the_cache_goes_if_all_in_it_is_ours(used: Settings) -> None:
    clean.clean(used, cache=True)
    assert not used.cache.exists()
    clean.clean(used, cache=True)  # and then there is nothing to do


def test_a_cache_with_files_of_others_stays_whole(used: Settings) -> None:
    (used.cache / "thesis.tex").touch()
    with pytest.raises(BuildError, match=r"holds what is not Serai's: thesis.tex; nothing is"):
        clean.clean(used, cache=True)
    assert (used.cache / "stages").is_dir()
    assert f"{IMAGE}/0.1.0-aaaaaaaa/manifest.json" in left(used)


def test_nothing_is_said_to_be_removed_that_is_not(
    used: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError):
        clean.clean(used, cache=True)
    assert "removed" not in capsys.readouterr().out
