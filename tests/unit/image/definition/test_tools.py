"""The versions that an image promises are those of its distribution's release, and the pins."""

from __future__ import annotations

import pytest

from serai.image.definition import definition, pins, tools
from serai.image.settings import Settings

HERE = Settings.of({})


@pytest.mark.parametrize("name", definition.names(HERE))
def test_the_versions_of_every_images_release_are_known(name: str) -> None:
    image = definition.load(HERE, name)
    assert f"{image.distribution}-{image.release}" in tools.VERSIONS


def test_versions_are_those_of_the_release_and_of_the_chosen_pin() -> None:
    pinned = pins.read(HERE)
    found = tools.promised(HERE, definition.load(HERE, "debian-12-amd64-standard"))
    assert (found["python3"], found["gcc"], found["git"]) == ("3.11", "12.2", "")
    assert found["node"] == pinned["node_wheel"].version
    chosen = ["variables.toolchain_node_source=official"]
    found = tools.promised(HERE, definition.load(HERE, "debian-12-amd64-standard", chosen))
    assert found["node"] == pinned["node"].version


def test_another_release_promises_tools_and_no_versions() -> None:
    image = definition.load(HERE, "ubuntu-22.04-amd64").model_copy(update={"release": "26.04"})
    found = tools.promised(HERE, image)
    assert {found["python3"], found["gcc"], found["java"]} == {""}
    assert found["node"]


def test_without_a_profile_nothing_is_promised() -> None:
    assert tools.promised(HERE, definition.load(HERE, "debian-12-amd64")) == {}
