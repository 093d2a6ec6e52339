"""Tutorials: the platform engineer's, up to the plan, and what the tests of the others stand on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.collection import Collection

import tasks
from tests.conftest import ROOT
from tests.support import tutorials

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
WHERE = {
    "operator.md": "operator",
    "operator-fleet.md": "fleet",
    "platform-engineer.md": "unit",
    "product-engineer.md": "container",
}


def test_the_platform_engineers_tutorial(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".venv", "dist", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    (checkout / ".venv").symlink_to(sys.prefix)
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    environment |= {"SERAI_CACHE": str(tmp_path / "cache"), "SERAI_MIRROR": ""}

    def shell(commands: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", commands],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    tutorials.follow("platform-engineer.md", "unit", shell)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_tutorial_is_run_somewhere(page: Path) -> None:
    """The others in tests/container/docs/test_tutorials.py."""
    assert {block.where for block in tutorials.blocks(page.name)} == {WHERE[page.name]}
    assert any(block.shows for block in tutorials.blocks(page.name))


def test_what_is_not_shown_is_found() -> None:
    output = "one\ntwo 2 three\nfour\n"
    assert tutorials.missing(("one", "two…three", "…u…"), output) == []
    assert tutorials.missing(("two", "four"), output) == ["two", "four"]
    assert tutorials.missing(("four", "one"), output) == ["one"]


def test_every_task_of_invoke_that_a_page_names_exists() -> None:
    known = set(Collection.from_module(tasks).task_names)
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = {
        task
        for page in pages
        for task in re.findall(r"(?:`|    |^|sudo |bin/)invoke ([a-z][a-z-]*)", page.read_text())
    }
    assert len(named) > 15
    assert named - known == set()
