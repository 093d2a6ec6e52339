"""One image, built and verified once, for all tests that need a finished one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image.build import build
from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.settings import Settings
from serai.image.verify.verdict import Report
from serai.image.verify.verify import verify
from tests.support import chosen, upgrading
from tests.support.sharing import Shared, sharing
from tests.support.upgrading import Upgraded


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The person's own: an image that is built already is not built again."""
    return Settings.of()


@pytest.fixture(scope="session")
def image(settings: Settings) -> Image:
    """This machine's own architecture, from a Debian mirror alone.

    SERAI_TEST_IMAGE names another one.
    """
    return definition.load(settings, chosen.IMAGE)


@pytest.fixture(scope="session")
def built(settings: Settings, image: Image) -> Path:
    """The folder of the finished image."""
    return build.build(settings, image.name)


@pytest.fixture(scope="session")
def shared(
    image: Image, settings: Settings, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    """One boot for the tests of shares, and the older of two images for those of upgrades.

    ``upgraded`` switches it off, and is the last to use it. SERAI_UPGRADE_FROM names the folder of
    an older finished image, of another release perhaps. Without it both are the same bytes, which
    are still two machines that share nothing but a disk.
    """
    older = os.environ.get("SERAI_UPGRADE_FROM")
    (disk,) = Path(older or built).glob("*.qcow2")
    top = tmp_path_factory.mktemp("shares")
    with sharing(settings, image, disk, top, verified=not older) as found:
        yield found


@pytest.fixture(scope="session")
def report(settings: Settings, image: Image, built: Path, shared: Shared) -> Report:
    """What one boot shows; an image is verified once a run.

    Left out are the second boot and the one on the other bus, both of which ``upgraded`` is, and
    the one without a second disk, which a sealed container is. A release verifies the whole.
    """
    return shared.report or verify(settings, image, built, quick=True)


@pytest.fixture(scope="session")
def upgraded(
    image: Image, built: Path, shared: Shared, tmp_path_factory: pytest.TempPathFactory
) -> Upgraded:
    """The boot of an image with faults on the older machine's disk of sessions."""
    disk = built / f"{image.name}.qcow2"
    folder = tmp_path_factory.mktemp("upgraded")
    return upgrading.upgraded(image, disk, shared.vm, shared.sessions, folder)
