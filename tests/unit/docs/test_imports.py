"""The contracts of who may import whom hold, and each goes red where it is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serai.image.run import search_path
from tests.conftest import ROOT

# For each contract, in their order, an import that breaks it: the module and what it imports.
BREAKS = (
    ("gate/rules.py", "from serai.runtime import settings"),
    ("runtime/sandbox/cgroups.py", "from serai.runtime.sessions import registry"),
    ("runtime/cli/folders.py", "from serai.runtime.api import files"),
    ("gate/heads.py", "from serai.gate import relay"),
    ("image/definition/pins.py", "from serai.image.build import plan"),
    ("common/errors.py", "from serai.common import jsonrpc"),
)


def linted(checkout: Path) -> list[str]:
    """Which contracts are kept and which are broken, in their order."""
    done = subprocess.run(
        ["lint-imports", "--no-cache"],  # noqa: S607 - from the lock, by search_path()
        cwd=checkout,
        env={"PATH": search_path(), "PYTHONPATH": str(checkout / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = re.findall(r" (KEPT|BROKEN)(?: |$)", done.stdout, re.MULTILINE)
    assert (done.returncode == 0) == ("BROKEN" not in verdicts), done.stdout + done.stderr
    return verdicts


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept(checkout: Path) -> None:
    assert linted(checkout) == ["KEPT"] * len(BREAKS)


@pytest.mark.parametrize("number", range(len(BREAKS)))
def test_a_contract_goes_red_where_it_is_broken(number: int, checkout: Path) -> None:
    module, line = BREAKS[number]
    path = checkout / "src/serai" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    assert linted(checkout)[number] == "BROKEN"
