"""A checkout with an image of a cloud image, and the site that this is published at."""

from __future__ import annotations

import hashlib
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from serai.image.build import base_cloudimage
from serai.image.build.download import Patience
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.support.waiting import DEADLINE
from tests.support.web_server import Origin

NAME = "ubuntu-22.04-arm64"
FILE = "ubuntu-22.04-server-cloudimg-arm64.img"
OLD = "release-20260913"
HASTE = Patience(attempts=2, seconds=DEADLINE, pause=0)
PATTERN = random.Random(3).randbytes(1000) * 200


def qemu_img(*arguments: str | Path) -> str:
    argv = ["qemu-img", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass
class Site:
    """A checkout with one image, its cache, and the origin that its base is pinned at."""

    settings: Settings
    origin: Origin
    folder: Path

    @property
    def toml(self) -> Path:
        return self.settings.root / "images" / f"{NAME}.toml"

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
        base_cloudimage.make(
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
