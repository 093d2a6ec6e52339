"""A web server, and a cloud image that is published there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image.settings import Settings
from tests.support.cloud_image_site import PATTERN, Site, qemu_img
from tests.support.web_server import Origin, serving


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 of 2 MiB, compressed as Ubuntu's are, that starts with PATTERN."""
    folder = tmp_path_factory.mktemp("disk")
    raw = folder / "disk.raw"
    raw.write_bytes(PATTERN)
    with raw.open("r+b") as stream:
        stream.truncate(2 << 20)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, folder / "disk.img")
    return folder / "disk.img"


@pytest.fixture
def site(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("http_proxy", "HTTP_PROXY", "SERAI_CLOUDIMAGE_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "images").mkdir()
    settings = Settings.of({"SERAI_CACHE": str(tmp_path / "cache")}, root=tmp_path)
    return Site(settings, origin, tmp_path)
