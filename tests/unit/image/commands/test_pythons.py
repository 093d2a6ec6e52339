"""The range of Pythons: which there are, how one is found, and that nothing is left out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import tomlkit

from serai.image.commands import pythons
from serai.image.definition import definition, tools
from serai.image.errors import BuildError
from serai.image.run import search_path
from serai.image.settings import Settings
from tests.conftest import ROOT

HERE = Settings.of({})
PROJECT = tomlkit.parse((ROOT / "pyproject.toml").read_text()).unwrap()
TOO_NEW = (
    "datetime.UTC",
    "subprocess.run(['x'], process_group=0)",
    "Path().walk()",
    "asyncio.timeout(1)",
)
REMOVED = ("import crypt", "locale.resetlocale()")
LINES = (
    "import asyncio, datetime, locale, subprocess",
    "from pathlib import Path",
    *TOO_NEW,
    *REMOVED,
)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_every_release_that_an_image_has_is_in_the_range() -> None:
    images = [definition.load(HERE, name) for name in definition.names(HERE)]
    assert {f"{image.distribution}-{image.release}" for image in images} <= pythons.RELEASES.keys()
    for name, versions in tools.VERSIONS.items():
        assert pythons.RELEASES[name].python == versions["python3"]


def test_the_range_is_what_the_linters_check() -> None:
    oldest, newest = pythons.oldest_and_newest()
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert newest == "3.13"


def test_the_half_of_the_vm_is_whole() -> None:
    rooms = {path.parent.name for path in (ROOT / "src/serai").glob("*/__init__.py")}
    assert set(pythons.HALF) == rooms - {"image", "mcp", "fleet"}


def test_mypy_finds_what_an_end_of_the_range_lacks(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("\n".join(LINES))
    for version, missing in zip(pythons.oldest_and_newest(), (TOO_NEW, REMOVED), strict=True):
        done = subprocess.run(
            ["mypy", "--python-version", version, "--cache-dir", "/dev/null", "new.py"],  # noqa: S607
            cwd=tmp_path,
            env={"PATH": search_path()},
            capture_output=True,
            text=True,
            check=False,
        )
        found = {
            int(line) for line in re.findall(r"^new.py:(\d+): error:", done.stdout, re.MULTILINE)
        }
        assert {LINES[number - 1] for number in found} == set(missing)


def test_a_python_is_found_on_the_path_or_at_pyenvs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = program(
        tmp_path / "bin/python3.10", "echo 'pyenv: python3.10: command not found'; exit 127"
    )
    monkeypatch.setenv("PATH", f"{shim.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    with pytest.raises(BuildError, match=r"there is no Python 3\.10 here; .*pyenv install 3\.10"):
        pythons.interpreter("3.10")
    other = program(tmp_path / "pyenv/versions/3.10.2/bin/python3.10", "echo 3.10")
    assert pythons.interpreter("3.10") == other
    program(shim, "echo 3.10")
    assert pythons.interpreter("3.10") == shim


def test_tools_have_the_versions_of_the_lock() -> None:
    lines = pythons.locked((ROOT / "requirements.lock").read_text())
    assert {line.partition("==")[0] for line in lines} == set(pythons._TOOLS)
    assert not [line for line in lines if "hash" in line or line.endswith("\\")]
    assert [line for line in lines if line.startswith("hypothesis==") and " ; python_full" in line]


def test_a_release_that_does_not_pass_is_named_and_the_others_are_tried(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def test(_settings: Settings, name: str, _libraries: pythons.Libraries) -> None:
        tried.append(name)
        if name == "debian-12":
            raise BuildError("tests failed")

    monkeypatch.setattr(pythons, "_test", test)
    with pytest.raises(BuildError, match="pythons: debian-12 did not pass"):
        pythons.pythons(checkout, "")
    assert tried == list(pythons.RELEASES)
    assert "debian-12: tests failed" in capsys.readouterr().err
    pythons.pythons(checkout, "ubuntu-22.04")
    with pytest.raises(BuildError, match="there is no release 'nixos'"):
        pythons.pythons(checkout, "nixos")
