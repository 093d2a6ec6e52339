"""Image definitions: what is accepted, and the one line for what is not."""

from __future__ import annotations

import pytest

from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings

GOOD = """
name = "debian-12-amd64"
summary = "for tests"
distribution = "debian"
release = "12"
arch = "amd64"
[base]
kind = "bootstrap"
suite = "bookworm"
"""


def write(checkout: Settings, text: str, name: str = "debian-12-amd64") -> str:
    (checkout.root / "images" / f"{name}.toml").write_text(text)
    return name


@pytest.mark.parametrize("name", definition.names(Settings.of({})))
def test_every_shipped_definition_loads(name: str) -> None:
    assert definition.load(Settings.of({}), name).name == name


def test_the_images_are_there() -> None:
    """A fork may have more."""
    assert set(definition.names(Settings.of({}))) >= {
        "debian-12-amd64",
        "debian-12-amd64-standard",
        "debian-12-arm64",
        "debian-12-arm64-standard",
        "debian-13-amd64",
        "debian-13-arm64",
        "ubuntu-22.04-amd64",
        "ubuntu-22.04-arm64",
        "ubuntu-24.04-amd64",
        "ubuntu-24.04-arm64",
    }


def test_an_image_with_more_tools_than_the_one_it_is_a_flavour_of_has_a_budget_for_them() -> None:
    settings = Settings.of({})
    for name in definition.names(settings):
        found = definition.load(settings, name)
        if found.variables.get("toolchain_profile") == "standard":
            assert (found.budget.root_mib or 0) > 2400, name  # of which 2.3 GiB were measured


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "[disk]\nsizes = '10G'", "images/debian-12-amd64.toml: disk.sizes is not a known"),
        (GOOD + "[machine]\ncpus = 'two'", "machine.cpus is wrong"),
        (GOOD + "[machine]\ncpus = true", "machine.cpus is wrong"),
        (GOOD + "[disk]\nsize = 10", "disk.size is wrong"),
        (GOOD + "[disk]\nsize = '10T'", "disk.size is wrong"),
        (GOOD.replace('"bootstrap"', '"floppy"'), "base.kind has an unknown kind"),
        (GOOD.replace('kind = "bootstrap"', ""), "base.kind needs a kind"),
        (GOOD.replace('suite = "bookworm"', ""), "base.suite is missing"),
        (GOOD.replace('suite = "bookworm"', 'sha256 = "0"'), "base."),
        (GOOD.replace('release = "12"', ""), "release is missing"),
        (GOOD.replace('arch = "amd64"', 'arch = "arm64"'), "'debian-12-arm64'"),
        (GOOD.replace('name = "debian-12-amd64"', 'name = "debian-13-amd64"'), "the file's name"),
        ("name = ", "images/debian-12-amd64.toml is not TOML"),
        ("\ufeffname", "is not TOML"),
    ],
)
def test_a_wrong_definition_is_one_line_with_file_and_key(
    checkout: Settings, text: str, said: str
) -> None:
    with pytest.raises(BuildError) as caught:
        definition.load(checkout, write(checkout, text))
    assert said in str(caught.value)
    assert "images/debian-12-amd64.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_image_is_told_with_those_there_are(checkout: Settings) -> None:
    write(checkout, GOOD)
    with pytest.raises(BuildError, match=r"no image 'nixos'; the images are: debian-12-amd64"):
        definition.load(checkout, "nixos")


def test_a_path_is_not_a_name(checkout: Settings) -> None:
    write(checkout, GOOD)
    with pytest.raises(BuildError, match="no image"):
        definition.load(checkout, "../images/debian-12-amd64")


def test_overrides_win_and_are_told_as_such(checkout: Settings) -> None:
    image, sources = definition.load_with_sources(
        checkout, write(checkout, GOOD), ["disk.size=12G", "machine.cpus=4"]
    )
    assert (image.disk.size, image.machine.cpus) == ("12G", 4)
    assert sources["disk.size"] == "--set"
    assert sources["base.suite"] == "images/debian-12-amd64.toml"
    assert sources["disk.bus"] == "default"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("disk.size", "not key=value"),
        ("=1", "not key=value"),
        ("name.first=x", "name is a value"),
        ("disk.colour=red", "--set: disk.colour is not a known key"),
        ("machine.cpus=0", "--set: machine.cpus is wrong"),
    ],
)
def test_a_wrong_override_is_one_line(checkout: Settings, override: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        definition.load(checkout, write(checkout, GOOD), [override])


FLAVOUR = """
name = "debian-12-amd64-large"
flavour_of = "debian-12-amd64"
disk = {size = "20G"}
"""


def test_a_flavour_has_what_its_image_has_but_for_what_it_says(checkout: Settings) -> None:
    write(checkout, GOOD + "[disk]\nsessions = '5G'\nsize = '4G'\n")
    name = write(checkout, FLAVOUR, "debian-12-amd64-large")
    image, sources = definition.load_with_sources(checkout, name)
    assert (image.name, image.summary, image.base.kind) == (name, "for tests", "bootstrap")
    assert (image.disk.size, image.disk.sessions) == ("20G", "5G")
    assert sources["disk.size"] == f"images/{name}.toml"
    assert sources["disk.sessions"] == sources["base.kind"] == "images/debian-12-amd64.toml"
    assert definition.load(checkout, "debian-12-amd64").disk.size == "4G"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FLAVOUR.replace('of = "debian-12', 'of = "debian-13'), "and there is no such image"),
        (FLAVOUR.replace('of = "debian-12-amd64', 'of = "debian-12-amd64-large'), "in a circle"),
        (FLAVOUR.replace('of = "debian-12-amd64', 'of = "debian-12-amd64-huge'), "amd64-huge-WORD"),
        (FLAVOUR + 'arch = "arm64"', "a flavour of debian-12-arm64 is debian-12-arm64-WORD"),
        (FLAVOUR.replace("-large", ""), "but the file's name is"),
        (FLAVOUR + "colour = 1", "images/debian-12-amd64-large.toml: colour is not a known key"),
    ],
)
def test_a_wrong_flavour_is_one_line(checkout: Settings, text: str, said: str) -> None:
    write(checkout, GOOD)
    write(checkout, FLAVOUR.replace("-large", "-huge"), "debian-12-amd64-huge")
    with pytest.raises(BuildError, match=said) as caught:
        definition.load(checkout, write(checkout, text, "debian-12-amd64-large"))
    assert str(caught.value).startswith("images/debian-12-amd64-large.toml: ")


def test_a_flavours_name_says_what_it_is_a_flavour_of(checkout: Settings) -> None:
    write(checkout, GOOD)
    name = write(checkout, FLAVOUR.replace("amd64-large", "large"), "debian-12-large")
    with pytest.raises(BuildError, match="a flavour of debian-12-amd64 is debian-12-amd64-WORD"):
        definition.load(checkout, name)


def test_the_mirror_setting_fills_the_base(checkout: Settings) -> None:
    write(checkout, GOOD)
    given = {
        "SERAI_MIRROR": "http://mirror.test/debian",
        "SERAI_SECURITY_MIRROR": "http://mirror.test/security",
    }
    settings = Settings.of(given, checkout.root)
    image, sources = definition.load_with_sources(settings, "debian-12-amd64")
    assert definition.flat(image)["base.mirror"] == "http://mirror.test/debian"
    assert sources["base.mirror"] == "SERAI_MIRROR"
    assert definition.flat(image)["base.security_mirror"] == "http://mirror.test/security"
    assert sources["base.security_mirror"] == "SERAI_SECURITY_MIRROR"
    assert definition.flat(definition.load(checkout, "debian-12-amd64"))["base.mirror"] == ""


def test_sizes_are_mebibytes() -> None:
    assert (definition.megabytes("512M"), definition.megabytes("10G")) == (512, 10240)
