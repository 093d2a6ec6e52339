"""What is asked of mmdebstrap, what goes into the key, and what its failures mean to a person."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image import project
from serai.image.build import base_bootstrap
from serai.image.definition.definition import Image, load
from serai.image.errors import BuildError
from serai.image.settings import Settings

SETTINGS = Settings.of({})


def _image(name: str = "debian-12-amd64", *overrides: str) -> Image:
    return load(SETTINGS, name, overrides)


def _inputs(name: str, *overrides: str) -> dict[str, object]:
    return base_bootstrap.inputs(_image(name, *overrides), SETTINGS)


def test_packages_are_those_of_the_architecture() -> None:
    assert "linux-image-arm64" in base_bootstrap.packages(_image("debian-12-arm64"))
    assert not [
        name for name in base_bootstrap.packages(_image()) if "{" in name or "arm64" in name
    ]


def test_an_image_s_own_packages_are_added_once() -> None:
    added = base_bootstrap.packages(_image("debian-12-amd64", 'base.packages=["quota", "sudo"]'))
    assert set(added) - set(base_bootstrap.packages(_image())) == {"quota"}
    assert added == sorted(set(added))


@pytest.mark.parametrize(
    "override",
    [
        "disk.size=12G",
        "base.suite=trixie",
        "base.mirror=file:///m",
        "base.security_mirror=file:///m",
        'base.packages=["quota"]',
    ],
)
def test_the_key_changes_with_all_that_determines_the_base(override: str) -> None:
    assert _inputs("debian-12-amd64", override) != _inputs("debian-12-amd64")


@pytest.mark.parametrize("override", ["machine.cpus=4", "disk.sessions=20G", "disk.bus=virtio"])
def test_the_key_does_not_change_with_the_rest(override: str) -> None:
    assert _inputs("debian-12-amd64", override) == _inputs("debian-12-amd64")


# What mmdebstrap writes where it chooses itself.
CHOSEN = """\
deb [signed-by="/k.gpg"] http://d/debian bookworm main
deb [signed-by="/k.gpg"] http://d/debian bookworm-updates main
deb [signed-by="/k.gpg"] http://d/security bookworm-security main
"""
MIRROR = CHOSEN.partition('deb [signed-by="/k.gpg"] http://d/security')[0].replace("//d/", "//m/")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["base.mirror=http://m/debian"], MIRROR),
        (
            ["base.mirror=http://m/debian", "base.security_mirror=http://s/x"],
            MIRROR + 'deb [signed-by="/k.gpg"] http://s/x bookworm-security main\n',
        ),
        (['base.mirror="deb [trusted=yes] http://m ./"'], "deb [trusted=yes] http://m ./\n"),
    ],
)
def test_a_build_has_its_mirrors_and_keeps_the_sources_to_ship(
    tmp_path: Path, options: list[str], expected: str
) -> None:
    argv = base_bootstrap._mmdebstrap(_image("debian-12-amd64", *options), tmp_path, SETTINGS)
    assert argv[-2:] == ["bookworm", str(tmp_path)], "mmdebstrap chooses, as without a mirror"
    (hook,) = (each for each in argv if each.startswith("--setup-hook="))
    sources = tmp_path / "etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(CHOSEN)
    shell = ["sh", "-c", hook.partition("=")[2], "hook", str(tmp_path)]  # as mmdebstrap does
    subprocess.run(shell, check=True)
    assert sources.read_text() == expected
    assert sources.with_suffix(".list.shipped").read_text() == CHOSEN


def test_without_a_mirror_nothing_is_added(tmp_path: Path) -> None:
    argv = base_bootstrap._mmdebstrap(_image("debian-12-amd64"), tmp_path, SETTINGS)
    assert not [each for each in argv if each.startswith("--setup-hook")]


def test_a_cloud_image_s_base_is_not_bootstrapped() -> None:
    with pytest.raises(BuildError, match="not 'bootstrap'"):
        _inputs("ubuntu-22.04-arm64")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "E: The method driver /usr/lib/apt/methods/gopher could not be found.\n",
            "the package mirror is none: apt knows no 'gopher'",
        ),
        (
            "E: Failed to fetch http://m/pool/a.deb  Connection failed\nE: mmdebstrap failed\n",
            "the package mirror cannot be used: Connection failed",
        ),
        (
            "E: Failed to fetch http://m/dists/x/InRelease  404  Not Found [IP: 127.0.0.1 1]\n",
            "the package mirror cannot be used: 404  Not Found",
        ),
        (
            "E: The repository 'http://m x Release' does not have a Release file.\n",
            "the package mirror cannot be used: it has no signed suite bookworm",
        ),
        (
            "E: Unable to locate package nonsense\n",
            "the package mirror has no package nonsense in bookworm for amd64",
        ),
        (
            "dpkg-deb: error: failed to write (No space left on device)\nE: mmdebstrap failed\n",
            "the disk is full while debian-12-amd64 is bootstrapped",
        ),
    ],
)
def test_known_failures_are_explained(said: str, expected: str) -> None:
    error = base_bootstrap.explain(said, _image(), SETTINGS)
    assert error is not None
    assert expected in str(error)
    assert error.hint


def test_a_mirror_of_one_s_own_is_named() -> None:
    image = _image("debian-12-amd64", "base.mirror=http://127.0.0.1:9/d")
    said = "E: Failed to fetch http://127.0.0.1:9/d/x  Refused\n"
    error = base_bootstrap.explain(said, image, SETTINGS)
    assert "the package mirror http://127.0.0.1:9/d cannot be used: Refused" in str(error)
    assert "(SERAI_MIRROR and SERAI_SECURITY_MIRROR)" in str(error)


def test_a_mirror_of_a_projects_file_is_called_so() -> None:
    settings = replace(SETTINGS, sources={**SETTINGS.sources, "mirror": project.FILE})
    error = base_bootstrap.explain("E: Failed to fetch http://a/x  Refused\n", _image(), settings)
    assert "(settings.mirror in serai.toml and SERAI_SECURITY_MIRROR)" in str(error)


def test_what_is_not_known_is_not_explained() -> None:
    assert base_bootstrap.explain("dpkg: error\n", _image(), SETTINGS) is None


def test_the_shell_scripts_parse() -> None:
    scripts = sorted(Path(base_bootstrap.__file__).parent.glob("data/bootstrap/*.sh"))
    assert {path.stem for path in scripts} == {
        "essential",
        "finish",
        "namespace",
        "sources",
        "standins",
    }
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(["/bin/sh", "-n", str(script)], check=True)


def test_without_root_it_says_to_use_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildError, match="sudo"):
        base_bootstrap.make(_image(), SETTINGS, tmp_path / "disk.qcow2", log=tmp_path / "log")
