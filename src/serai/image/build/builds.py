"""What lies below dist/: builds and releases, found by the names of image and version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serai.image import layout
from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.settings import Settings

LATEST = "latest"
"""The link to what the last `invoke build-image` made, or found to be there already."""


@dataclass(frozen=True)
class Finished:
    """A finished image: its directory, and its definition as it was built."""

    folder: Path
    image: Image

    @property
    def disk(self) -> Path:
        """The qcow2."""
        return self.folder / layout.disk(self.image.name)


def find(settings: Settings, name: str, version: str = "") -> Finished:
    """The build or release ``version`` of the image ``name``; '' is the latest build.

    What was chosen with --set, or stood in the definition then, is what the disk is to be judged
    by. Only what leaves no trace in a disk is as the definition has it today.
    Raises BuildError if there is no such build.
    """
    folder = _folder(settings, name, version)
    try:
        manifest = json.loads((folder / layout.MANIFEST).read_text(encoding="utf-8"))
        image = Image.model_validate_json(json.dumps(manifest["definition"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        raise BuildError(
            f"{folder} has no {layout.MANIFEST} that this Serai can read", hint="build it again"
        ) from None
    if image.name != name:
        raise BuildError(f"{folder} is a build of {image.name}, not of {name}")
    if name in definition.names(settings):
        today = definition.load(settings, name)
        traceless = {each: getattr(today, each) for each in ("summary", "machine", "budget")}
        image = image.model_copy(update=traceless)
    return Finished(folder, image)


def versions(settings: Settings, name: str) -> list[str]:
    """The versions of ``name`` that there are, sorted."""
    found = (path.parent for path in (settings.dist / name).glob(f"*/{layout.MANIFEST}"))
    return sorted(folder.name for folder in found if not folder.is_symlink())


def _folder(settings: Settings, name: str, version: str) -> Path:
    link = settings.dist / name / LATEST
    if not version or version == LATEST:
        if not link.is_dir():
            raise BuildError(
                f"{name} is not built", hint=f"run 'invoke build-image --image {name}'"
            )
        return link.resolve()
    if version not in (known := versions(settings, name)):
        raise BuildError(
            f"{name} has no build {version!r}", hint=f"there are: {', '.join(known) or 'none'}"
        )
    return settings.dist / name / version
