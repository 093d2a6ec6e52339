"""Of which image's Debian a container is."""

from __future__ import annotations

import platform

import pytest

from serai.image.container import roots
from serai.image.errors import BuildError
from serai.image.settings import Settings

HERE = Settings.of({})


@pytest.mark.parametrize(("name", "suite"), [("", "bookworm"), ("debian-13-amd64", "trixie")])
def test_a_container_is_the_debian_of_its_image(
    name: str, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert roots.suite(HERE, name) == suite


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("debian-13-arm64", "debian-13-arm64 is for arm64, and a container has this host's amd64"),
        ("ubuntu-22.04-amd64", "ubuntu-22.04-amd64: base.kind is 'cloud-image', not 'bootstrap'"),
    ],
)
def test_what_a_container_cannot_be_is_refused(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(BuildError) as caught:
        roots.suite(HERE, name)
    assert caught.value.message == said
