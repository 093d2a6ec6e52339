"""What each program imports in the VM, under its own flags and with Python 3.10's library.

With -S the directory of the distribution's packages isn't searched; and tomli, which Python 3.10
needs to read TOML, is such a package.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = ROOT / "src"
CHECK = ROOT / "tests/support/imports_on_3_10.py"
SCRIPTS = {
    path: match[1]
    for path in sorted((SOURCES / "serai/install/programs").iterdir())
    if (match := re.match(r"#!/usr/bin/python3 (-\w+)\n", path.read_text()))
}
STARTED = {
    "serai.runtime.sandbox.usher": "runtime/sandbox/enter.py",
    "serai.runtime.sandbox.holder": "runtime/sessions/payloads/holders.py",
    "serai.runtime.folders.bindfs": "runtime/folders/bindfs.py",
    "serai.runtime.folders.transfer": "runtime/api/files.py",
}
"""Modules that are started by their path without the site module, and where that is done."""


def missing(flags: str, program: str | Path, *arguments: str, sources: Path = SOURCES) -> str:
    argv = ["/usr/bin/python3", flags, str(CHECK), str(sources), str(program), *arguments]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_program_finds_all_that_it_imports(path: Path) -> None:
    assert missing(SCRIPTS[path], path) == ""


def test_exec_needs_no_package_of_the_distribution() -> None:
    assert missing("-IS", SOURCES / "serai/install/programs/serai", "exec") == ""


@pytest.mark.parametrize("module", STARTED)
def test_a_module_without_the_site_module_needs_no_package(module: str) -> None:
    assert missing("-IS", module) == ""


PACKAGES = {"cryptography", "h11", "idna", "jeepney", "jinja2", "seccomp", "tomli"}
"""What the distributions have, by the names that are imported."""


def packages(text: str) -> set[str]:
    """The packages that a module imports anywhere, but for Python's own and ours."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"serai"}


def test_what_lives_in_the_vm_imports_the_distributions_packages_and_no_others() -> None:
    halves = ("common", "disk", "gate", "install", "runtime")
    paths = [path for half in halves for path in (SOURCES / "serai" / half).rglob("*.py")]
    assert set().union(*(packages(path.read_text()) for path in paths)) == PACKAGES
    page = (ROOT / "docs/architecture.md").read_text().split("**What lives in the VM**")[1]
    assert all(name in page.split("\n\n")[0] for name in PACKAGES)
    assert packages("import os\n\ndef f():\n    from yaml import safe_load\n") == {"yaml"}


def test_no_program_is_left_out() -> None:
    shipped = set((SOURCES / "serai").rglob("*.py")) - set((SOURCES / "serai/image").rglob("*.py"))
    texts = {path: path.read_text() for path in shipped}
    starting = {
        str(path.relative_to(SOURCES / "serai"))
        for path, text in texts.items()
        if re.search(r'"-I?S', text)
    }
    assert starting == set(STARTED.values())
    for path in (SOURCES / "serai/install/programs").iterdir():
        assert path in SCRIPTS or "python" not in path.read_text().partition("\n")[0]


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    package = tmp_path / "serai"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "late.py").write_text("def f():\n    import tomli\n")
    (package / "newer.py").write_text("import tomllib\n")
    (package / "known.py").write_text("import json\nfrom serai import late as known\n")
    assert "No module named 'tomli'" in missing("-IS", "serai.late", sources=tmp_path)
    assert "No module named 'tomli'" in missing("-IS", "serai.known", sources=tmp_path)
    assert missing("-I", "serai.late", sources=tmp_path) == ""
    assert "has no tomllib" in missing("-I", "serai.newer", sources=tmp_path)
