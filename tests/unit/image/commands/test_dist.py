"""What is in the wheels and the sdist, and that they are the same each time."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from serai.image import digest, layout
from serai.image.commands import dist, pythons
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.tasks import program, tasks
from tests.conftest import ROOT

THIS = "%d.%d" % sys.version_info[:2]  # noqa: UP031


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """For a checkout of our source alone, and this Python alone."""
    root = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "src/serai", root / "src/serai", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in dist.CARRIED_PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    monkeypatch.setattr(pythons, "RELEASES", {"here": pythons.Libraries(THIS, {})})
    monkeypatch.setattr(pythons, "interpreter", lambda _version: Path(sys.executable))
    return Settings.of({}, root=root)


def test_both_are_whole_and_the_same_each_time(settings: Settings) -> None:
    made = dist.dist(settings)
    wheel, sdist = made / "serai-0.1.0-py3-none-any.whl", made / "serai-0.1.0.tar.gz"
    sums = [line.split() for line in (made / "SHA256SUMS").read_text().splitlines()]
    half = made / "serai_build-0.1.0-py3-none-any.whl"
    roles = made / "serai-vm-0.1.0.tar.gz"
    assert sums == [[digest.of_file(path), path.name] for path in (wheel, sdist, roles, half)]
    names = zipfile.ZipFile(wheel).namelist()
    assert "serai/runtime/library.py" in names
    assert "serai/py.typed" in names
    assert not [name for name in names if name.startswith("serai/image")]
    carried = zipfile.ZipFile(half).namelist()
    assert not set(carried) & set(names), "the wheels have a file in common"
    for path in ("pins.yml", "roles/seal/tasks/main.yml", "src/serai/runtime/library.py"):
        assert f"serai/image/checkout/{path}" in carried
    assert not [name for name in carried if "checkout/src/serai/image" in name or "pycache" in name]
    before = digest.of_tree(made)
    dist.dist(settings)
    assert digest.of_tree(made) == before


def test_an_sdist_that_lacks_something_is_refused_and_what_was_there_stays(
    settings: Settings,
) -> None:
    earlier = settings.dist / layout.CLIENT
    earlier.mkdir(parents=True)
    (earlier / "kept").touch()
    project = settings.root / "pyproject.toml"
    text = project.read_text()
    head, found, rest = text.partition("[tool.hatch.build.targets.sdist]")
    assert found
    less = rest.replace('exclude = ["src/serai/image"]', 'exclude = ["src/serai/gate"]', 1)
    project.write_text(head + found + less)
    with pytest.raises(BuildError, match="makes another wheel"):
        dist.dist(settings)
    assert [path.name for path in earlier.iterdir()] == ["kept"]


def test_what_a_project_needs_is_in_its_command() -> None:
    found = tasks.collection(*program.NAMES)
    assert set(found.task_names) == set(program.NAMES)
