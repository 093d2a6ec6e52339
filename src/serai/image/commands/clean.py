"""What `invoke clean` does."""

from __future__ import annotations

import shutil

from serai.image import console
from serai.image.settings import Settings


def clean(settings: Settings, *, cache: bool) -> None:
    """Remove the images, and with ``cache`` everything that makes the next build faster."""
    for folder in [settings.dist, *([settings.cache] if cache else [])]:
        shutil.rmtree(folder, ignore_errors=True)
        console.say(f"removed {folder}")
