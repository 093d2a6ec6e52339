"""One image, built once, for all tests that need a finished one."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.image import build, definition
from serai.image.definition import Image
from serai.image.settings import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The person's own: an image that is built already is not built again."""
    return Settings.of()


@pytest.fixture(scope="session")
def image(settings: Settings) -> Image:
    """This machine's own architecture, from a Debian mirror alone."""
    return definition.load(settings, definition.rehearsal())


@pytest.fixture(scope="session")
def built(settings: Settings, image: Image) -> Path:
    """The folder of the finished image."""
    return build.build(settings, image.name)
