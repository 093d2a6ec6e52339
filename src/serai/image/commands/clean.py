"""What `invoke clean` does: it removes what Serai made and can make again, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from serai.image import console, layout
from serai.image.build import builds
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.vm import accelerator

# The names of all that is in the cache; scratch directories of killed processes are tmp and more.
_CACHED = re.compile(
    "builds|containers|downloads|logs|provision|pythons|release|stages|twice|verify|work|tmp[a-z0-9_]{8}|"
    + re.escape(accelerator.MEMORY)
)
_MOST_TOLD = 5  # names of what is not ours


def clean(settings: Settings, *, cache: bool) -> None:
    """Remove the builds, and with ``cache`` everything that makes the next build faster.

    Releases stay, and so does every file that no build made. Raises BuildError where the cache
    holds such files, and OSError where something cannot be removed: what was said to be is gone.
    """
    strange = _strange(settings.cache) if cache else []
    if strange:
        raise BuildError(
            f"{settings.cache} holds what is not Serai's: {', '.join(strange[:_MOST_TOLD])}",
            hint="nothing is removed; give SERAI_CACHE a directory of its own",
        )
    for path in [*_builds(settings), *([settings.cache] if cache else [])]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            continue
        console.say(f"removed {path}")
    _tell_of_the_rest(settings.dist)


def _builds(settings: Settings) -> Iterator[Path]:
    """What is below dist/ and can be made again."""
    for manifest in sorted(settings.dist.glob(f"*/*/{layout.MANIFEST}")):
        folder = manifest.parent
        if folder.is_symlink() or (folder / layout.PROVENANCE).exists():  # latest, and releases
            continue
        if _image(manifest) == folder.parent.name:
            yield folder
    for link in sorted(settings.dist.glob(f"*/{builds.LATEST}")):
        if link.is_symlink():
            yield link
    if (settings.dist / "site" / "sitemap.xml").is_file():  # of invoke docs --site
        yield settings.dist / "site"
    if (settings.dist / layout.CLIENT / layout.SUMS).is_file():  # of invoke dist
        yield settings.dist / layout.CLIENT


def _image(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["image"])
    except (ValueError, KeyError, TypeError):
        return ""


def _strange(cache: Path) -> list[str]:
    if not cache.is_dir():
        return []
    return sorted(path.name for path in cache.iterdir() if not _CACHED.fullmatch(path.name))


def _tell_of_the_rest(dist: Path) -> None:
    """Remove the directories that are empty now, and say what is kept."""
    for folder in sorted(dist.glob("*/")):
        rest = sorted(path for path in folder.iterdir() if path.name != ".release.lock")
        if not rest:
            shutil.rmtree(folder)
        for path in rest:
            release = (path / layout.PROVENANCE).exists()
            console.say(f"kept {path}: {'a release' if release else 'no build made it'}")
    for path in sorted(dist.glob("*")):
        if not path.is_dir():
            console.say(f"kept {path}: no build made it")
