"""What an image chooses of its roles: checked by the roles' own specs, part of a layer's key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from serai.image.build import layer, plan
from serai.image.build.packer_build import LayerBuild
from serai.image.definition import definition, tools, variables
from serai.image.errors import BuildError
from serai.image.settings import Settings

HERE = Settings.of({})
DEBIAN = "debian-12-amd64"


def test_the_product_has_the_references_tools_and_a_rehearsal_none() -> None:
    profiles = {
        name: definition.load(HERE, name).variables.get("toolchain_profile")
        for name in definition.names(HERE)
    }
    ours = {
        "debian-12-amd64": None,
        "debian-12-amd64-standard": "standard",
        "debian-12-arm64": None,
        "debian-12-arm64-standard": "standard",
        "debian-13-amd64": None,
        "debian-13-arm64": None,
        "ubuntu-22.04-amd64": "standard",
        "ubuntu-22.04-arm64": "standard",
        "ubuntu-24.04-amd64": "standard",
        "ubuntu-24.04-arm64": "standard",
    }
    assert profiles.items() >= ours.items()  # a fork may have more images
    assert (
        yaml.safe_load((HERE.root / "roles/toolchain/defaults/main.yml").read_text())[
            "toolchain_profile"
        ]
        == "none"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("variables.toolchain_profile=huge", "must be one of none, minimal, standard, full"),
        ("variables.toolchain_profile=1", "must be a text, it is 1"),
        ("variables.snaps_keep=yes", "must be true or false, it is 'yes'"),
        ("variables.limits_nofile=true", "must be a whole number, it is True"),
        ("variables.toolchain_packages=[1]", "has 1 in it, not a text"),
        ("variables.colour=red", "is no role's variable"),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_it(override: str, said: str) -> None:
    with pytest.raises(BuildError) as caught:
        definition.load(HERE, DEBIAN, [override])
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"--set: {override.split('=', maxsplit=1)[0]} ")


def test_a_misspelt_variable_is_told_with_what_it_may_mean() -> None:
    with pytest.raises(BuildError) as caught:
        definition.load(HERE, DEBIAN, ["variables.toolchain_profil=full"])
    assert caught.value.hint == "did you mean toolchain_profile?"


def test_a_choice_is_told_with_its_source() -> None:
    _, sources = definition.load_with_sources(HERE, "ubuntu-22.04-arm64")
    assert sources["variables.toolchain_profile"] == "images/ubuntu-22.04-arm64.toml"


def test_a_choice_changes_the_layer_of_its_role_and_what_is_built_on_it() -> None:
    def keys(*overrides: str) -> list[str]:
        image = definition.load(HERE, DEBIAN, overrides)
        return [stage.key for stage in plan.make(HERE, image).stages]

    without = keys()
    base = keys("variables.toolchain_profile=minimal")  # Debian's is made with its packages
    system = keys("variables.toolchain_node_source=official")
    runtime = keys("variables.runtime_tasks_max=100")
    assert [a == b for a, b in zip(without, base, strict=True)] == [False, False, False]
    assert [a == b for a, b in zip(without, system, strict=True)] == [True, False, False]
    assert [a == b for a, b in zip(without, runtime, strict=True)] == [True, True, False]


def test_a_bootstrapped_base_has_the_packages_that_the_roles_would_install() -> None:
    chosen = ["variables.toolchain_profile=minimal", 'variables.toolchain_packages=["nano"]']
    image, sources = definition.load_with_sources(HERE, DEBIAN, chosen)
    plain = definition.load(HERE, DEBIAN).bootstrapped().packages
    assert {"bubblewrap", "python3", "python3-h11", "systemd-timesyncd"} <= set(plain)
    added = set(image.bootstrapped().packages) - set(plain)
    assert added == {"git", "jq", "nano", "python3-pip", "python3-venv", "ripgrep"}
    assert sources["base.packages"] == "roles"


def test_a_choice_of_a_roles_packages_replaces_its_default() -> None:
    chosen = ['variables.guest_packages=["nano"]', 'base.packages=["quota"]']
    image, sources = definition.load_with_sources(HERE, DEBIAN, chosen)
    packages = image.bootstrapped().packages
    assert {"nano", "quota"} <= set(packages)
    assert "qemu-guest-agent" not in packages
    assert sources["base.packages"] == "--set, roles"


def test_each_profile_has_what_those_before_it_have_on_every_release() -> None:
    def packages(system: str, profile: str = "") -> set[str]:
        chosen = {"toolchain_profile": profile} if profile else {}
        distribution, release = system.split("-")
        return set(variables.packages(HERE, distribution, release, chosen))

    levels = ("none", "minimal", "standard", "full")
    for system in tools.VERSIONS:
        found = [packages(system, profile) for profile in levels]
        assert found[0] == packages(system)
        assert found[0] < found[1] < found[2] < found[3]
    assert "python3-pypdf" in packages("debian-13", "full")
    assert "python3-pypdf2" in packages("ubuntu-22.04", "standard")
    assert "python3-pypdf" in packages("ubuntu-24.04", "standard")
    assert "python3-tomli" not in packages("ubuntu-24.04")


def test_what_a_release_says_wins_over_its_distribution(checkout: Settings) -> None:
    role = checkout.root / "roles/toy"
    files = {
        "defaults/main.yml": "---\ntoy_packages: [always]\n",
        "vars/Debian.yml": "---\ntoy_own_packages: [old]\ntoy_word: debian\n",
        "vars/Debian-13.yml": "---\ntoy_own_packages: [new]\n",
    }
    for name, text in files.items():
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(text)
    assert variables.packages(checkout, "debian", "12", {}) == ["always", "old"]
    assert variables.packages(checkout, "debian", "13", {}) == ["always", "new"]
    assert variables.of_distribution(role, "debian", "13") == {
        "toy_own_packages": ["new"],
        "toy_word": "debian",
    }


def test_a_cloud_image_stays_what_its_maker_shipped() -> None:
    assert "base.packages" not in definition.flat(definition.load(HERE, "ubuntu-22.04-amd64"))


def test_ansible_gets_what_concerns_the_layer(tmp_path: Path) -> None:
    chosen = ["variables.toolchain_profile=full", "variables.runtime_tasks_max=100"]
    image = definition.load(HERE, DEBIAN, chosen)
    _, system, serai = plan.make(HERE, image).stages
    assert system.chosen == {"toolchain_profile": "full"}
    said = {"seal_image_id": DEBIAN, "seal_image_version": f"0.1.0-{serai.key[:8]}"}
    assert serai.chosen == {"runtime_tasks_max": 100, **said}
    for stage in (system, serai):
        *_, chosen_file = layer._arguments(LayerBuild(stage.name, stage.chosen, tmp_path), tmp_path)
        assert json.loads(Path(chosen_file.removeprefix("@")).read_text()) == stage.chosen


def test_a_role_gets_the_variables_that_its_defaults_are_made_of() -> None:
    """Otherwise the seal, which is in another layer, would call each image serai."""
    image = definition.load(HERE, DEBIAN, ["variables.identity_hostname=acme"])
    _, system, serai = plan.make(HERE, image).stages
    assert system.chosen == {"identity_hostname": "acme"}
    assert serai.chosen["identity_hostname"] == "acme"


def test_every_path_on_the_build_host_has_the_type_by_which_it_is_found() -> None:
    """Its content is part of a layer's key by that."""
    for path in HERE.root.glob("roles/*/meta/argument_specs.yml"):
        main = yaml.safe_load(path.read_text())["argument_specs"]["main"]
        for name, spec in main.get("options", {}).items():
            host = "on the controller" in "".join(spec["description"])  # a text, or several
            assert host == ("path" in (spec.get("type"), spec.get("elements"))), name


def test_every_variable_is_some_types_and_only_one_roles() -> None:
    known = variables.options(HERE)
    assert {option.type for option in known.values()} <= set(variables._TYPES)
    assert len(known) > 30
