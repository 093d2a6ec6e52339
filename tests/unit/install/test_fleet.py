"""A fleet's member gets an environment of its own, again only if its wheels are others."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from serai.install import fleet


def wheel(path: Path, version: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", f"VERSION = {version!r}\n")
        archive.writestr(f"thing/only_{version}.py", "")
        archive.writestr(fleet.SOURCE, f"# {version}\n")
        archive.writestr(f"thing-{version}.dist-info/METADATA", "Name: thing\n")
    return path


def said(place: Path) -> str:
    code = "import thing; print(thing.VERSION)"
    argv = [str(place / "venv/bin/python"), "-I", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_changes_in_one_step_and_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place, unit = root / fleet.PLACE, root / fleet.UNIT
    one = wheel(tmp_path / "one.whl", "1")
    assert fleet.install(root, [one])
    assert said(place) == "1"
    assert not fleet.install(root, [one])
    assert fleet.install(root, [wheel(tmp_path / "two.whl", "2")])
    assert said(place) == "2"
    assert unit.read_text() == "# 2\n"
    unit.write_text("")
    assert fleet.install(root, [tmp_path / "two.whl"])
    assert unit.read_text() == "# 2\n"
    assert len([*place.iterdir()]) == 2
    assert not [*place.rglob("only_1.py")]


def test_one_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place, unit = root / fleet.PLACE, root / fleet.UNIT
    one = wheel(tmp_path / "one.whl", "1")
    fleet.install(root, [one])
    (place / "venv").unlink()  # it is the last step
    unit.unlink()
    (next(place.glob("venv-*")) / "bin/python").unlink()
    assert fleet.install(root, [one])
    assert said(place) == "1"
