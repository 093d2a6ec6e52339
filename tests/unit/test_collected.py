"""No test is left out because of where it is."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_no_directory_of_tests_is_one_that_pytest_leaves_out(pytestconfig: pytest.Config) -> None:
    """By default it leaves out each one that is called build, dist or venv."""
    left_out = pytestconfig.getini("norecursedirs")
    folders = {path.parent for path in Path(ROOT, "tests").rglob("test_*.py")}
    names = {part for folder in folders for part in folder.relative_to(ROOT).parts}
    assert "build" in names
    assert [name for name in names for pattern in left_out if fnmatch(name, pattern)] == []
