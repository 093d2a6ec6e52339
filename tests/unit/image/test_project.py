"""A project outside of the checkout: what is read, and which Serai may build it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.image import project
from serai.image.errors import BuildError
from serai.image.settings import Settings


def write(directory: Path, text: str) -> Path:
    (directory / project.FILE).write_text(text)
    return directory


def test_it_is_found_from_below_or_by_name(tmp_path: Path) -> None:
    here = write(tmp_path, 'serai = "==0.1.*"')
    (tmp_path / "images/deep").mkdir(parents=True)
    assert project.find(tmp_path / "images/deep", {}) == here
    assert project.find(Path("/"), {}) is None
    assert project.find(Path("/"), {project.VARIABLE: str(here)}) == here


def test_the_environment_comes_before_it_and_relative_paths_begin_in_it(tmp_path: Path) -> None:
    text = 'serai = ">=0.1"\n[settings]\ncache = "c"\nmirror = "http://a.test/"\n'
    found = project.load(write(tmp_path, text), "0.1.0")
    settings = Settings.of({"SERAI_MIRROR": "http://b.test/"}, project=found)
    assert settings.cache == tmp_path / "c"
    assert settings.dist == tmp_path / "dist"
    assert settings.mirror == "http://b.test/"
    assert settings.sources["cache"] == project.FILE
    assert settings.called("cache") == "settings.cache in serai.toml"
    assert settings.called("mirror") == "SERAI_MIRROR"


def test_what_is_said_of_the_build_is_its_environment(tmp_path: Path) -> None:
    text = 'serai = ">=0.1"\n[build]\nhttps_proxy = "http://p.test"\nno_proxy = "127.0.0.1"\n'
    text += 'pip_index_url = "http://i.test"'
    found = project.load(write(tmp_path, text), "0.1.0")
    told = {"https_proxy": "http://p.test", "no_proxy": "127.0.0.1"}
    told |= {"PIP_INDEX_URL": "http://i.test"}
    assert found.build.environment() == told
    shown = {name: value for name, value, _ in Settings.of({}, project=found).resolved()}
    assert shown["build.https_proxy"] == "http://p.test"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('serai = "==0.2.*"', r"is for Serai ==0\.2\.\*, and this is 0\.1\.0; install one"),
        ('serai = "newest"', "versions are said as in"),
        ("", "serai is missing"),
        ('serai = ">=0.1"\ncolour = 1', "colour is not a known key"),
        ('serai = ">=0.1"\n[settings]\ndisk = "x"', "settings.disk is not a known key"),
        ('serai = ">=0.1"\n[build]\nhttp_proxy = 1', "build.http_proxy is wrong"),
        (
            'serai = ">=0.1"\n[build]\nhttp_proxy = "127.0.0.1:3128"',
            "build.http_proxy is 127.0.0.1",
        ),
        ('serai = ">=0.1"\n[build]\nhttps_proxy = "http://u:p@[::1]:1"', "finds only itself; name"),
        ('serai = ">=0.1"\n[build]\nnpm_registry = "http://localhost:4873/"', "only itself"),
        ("serai = [", "is not TOML"),
    ],
)
def test_a_wrong_one_is_one_line_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        project.load(write(tmp_path, text), "0.1.0")
    assert str(caught.value).startswith(str(tmp_path / project.FILE))
    assert "\n" not in str(caught.value).partition(";")[0] or "TOML" in str(caught.value)


def test_a_directory_without_the_file_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"is no project.*'serai-build new DIR' makes one"):
        project.load(tmp_path, "0.1.0")
