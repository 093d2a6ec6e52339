"""One image, built once, for all tests that need a finished one."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from serai.image import build, definition
from serai.image.definition import Image
from serai.image.settings import Settings

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The person's own: an image that is built already is not built again."""
    return Settings.of()


@pytest.fixture(scope="session")
def image(settings: Settings) -> Image:
    """The rehearsal for this machine's architecture: it needs only a Debian mirror."""
    return definition.load(settings, f"debian-12-{ARCH}")


@pytest.fixture(scope="session")
def built(settings: Settings, image: Image) -> Path:
    """The folder of the finished image."""
    return build.build(settings, image.name)
