"""What `invoke demo` does: the whole way from a mirror to a verified image."""

from __future__ import annotations

import json
from pathlib import Path

from serai.image import console, layout
from serai.image.build import build
from serai.image.definition import definition
from serai.image.settings import Settings
from serai.image.verify.verify import verify


def demo(settings: Settings) -> int:
    """Build and verify Debian 12 for this host, then print what was made."""
    image = definition.rehearsal(settings)
    folder = build.build(settings, image.name)
    report = verify(settings, image, folder)
    summary(folder, image.name)
    return 0 if report.ok else 1


def summary(folder: Path, name: str) -> None:
    """What a build made, from its own manifest and verification, and how to look into it."""
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    verified = json.loads((folder / layout.VERIFIED).read_text())
    shipped = folder / layout.disk(name)
    console.say(f"image     {shipped}")
    console.say(f"size      {shipped.stat().st_size / 2**20:.0f} MiB")
    console.say(f"packages  {manifest['packages']}")
    console.say(f"boot      {console.seconds(verified['boot_seconds'])} until ssh answers")
    console.say(f"checks    {verified['passed']} passed, {verified['failed']} failed")
    console.say(f"next      .venv/bin/invoke boot --image {name}")
