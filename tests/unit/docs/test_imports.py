"""The contracts of who may import whom hold, and each goes red where it is broken."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serai.image.run import search_path
from tests.conftest import ROOT

SOURCE = ROOT / "src/serai"
# What other programs load, and the contracts do not see: they import nothing of Serai.
APART = ("image/guest/attack/payloads", "image/provision/callbacks")
HALVES = {"runtime", "gate", "disk", "install"}

# For each contract, in their order, an import that breaks it: the module and what it imports.
BREAKS = (
    ("gate/policy/rules.py", "from serai.runtime import settings"),
    ("runtime/sandbox/cgroups.py", "from serai.runtime.sessions import registry"),
    ("runtime/cli/folders.py", "from serai.runtime.api import files"),
    ("runtime/cli/connect.py", "from serai.runtime.sessions import registry"),
    ("gate/messages/heads.py", "from serai.gate.connections import relay"),
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


def halves(text: str) -> set[str]:
    """The halves that a program imports anything of."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    return {part for name in names for part in name.split(".")[1:2]} & HALVES


def test_the_contracts_see_every_module() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    apart = [each for each in folders if not (each / "__init__.py").exists()]
    assert {str(each.relative_to(SOURCE)) for each in apart} == set(APART)
    texts = [path.read_text() for each in apart for path in each.glob("*.py")]
    assert not any(re.search(r"^\s*(from|import) serai", text, re.MULTILINE) for text in texts)


def test_what_runs_in_a_guest_imports_nothing_that_a_vm_has_not() -> None:
    texts = [path.read_text() for path in (SOURCE / "image/guest").rglob("*.py")]
    assert len(texts) > 12
    assert not any(re.search(r"^\s*(from|import) serai\.image", t, re.MULTILINE) for t in texts)


def test_a_program_of_the_vm_starts_one_half() -> None:
    texts = [path.read_text() for path in (SOURCE / "install/programs").iterdir()]
    found = [halves(text) for text in texts if "python3" in text.partition("\n")[0]]
    assert len(found) > 4
    assert all(len(each) == 1 for each in found)
    both = "from serai.gate.server import main\nimport serai.runtime.settings\n"
    assert halves(both) == {"gate", "runtime"}


def test_every_contract_is_kept(checkout: Path) -> None:
    assert linted(checkout) == ["KEPT"] * len(BREAKS)


@pytest.mark.parametrize("number", range(len(BREAKS)))
def test_a_contract_goes_red_where_it_is_broken(number: int, checkout: Path) -> None:
    module, line = BREAKS[number]
    path = checkout / "src/serai" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    assert linted(checkout)[number] == "BROKEN"
