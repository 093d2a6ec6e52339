"""The paths and links that the docs name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serai.image.run import run
from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# A changelog speaks of what was there, too.
PAGES.remove(ROOT / "CHANGELOG.md")
# A path begins with what is at the top of the checkout; what builds make is not there. A module may
# be named by the end of its path.
TOPS = "docs|images|packer|playbooks|roles|scripts|src|tests|[.]github"
PATH = re.compile(rf"`((?:{TOPS})/[^\s`:]*|[\w/]+\.py)`")
# In a path, what stands for any name: <Distribution>, NAME, X, *.
ANY = re.compile(r"<\w+>|\b[A-Z]+\b|\*+")
MODULES = [
    f"/{path.relative_to(ROOT)}"
    for top in ("roles", "src", "tests")
    for path in (ROOT / top).rglob("*.py")
]


def missing(text: str) -> list[str]:
    """The paths in backticks for which there is no file."""
    return [path for path in PATH.findall(text) if not exists(path)]


def exists(path: str) -> bool:
    by_end = path.endswith(".py") and any(module.endswith(f"/{path}") for module in MODULES)
    return by_end or any(ROOT.glob(ANY.sub("*", path.rstrip("/"))))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_paths_of_a_page_exist(page: Path) -> None:
    assert missing(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    here = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in here if not (page.parent / link).exists()] == []


def headings(text: str) -> set[str]:
    """What a link to a heading of this page has behind its #."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def nowhere(page: Path, text: str) -> list[str]:
    """The links in ``text``, which is the page's, to headings that there are not."""
    links = re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", text)
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    return [
        anchor
        for target, anchor in targets
        if target.suffix == ".md" and anchor not in headings(target.read_text())
    ]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_headings_that_a_page_links_to_exist(page: Path) -> None:
    assert nowhere(page, page.read_text()) == []


def test_a_link_to_a_heading_that_is_gone_is_found() -> None:
    here = ROOT / "README.md"
    assert nowhere(here, "[a](docs/gate.md#gone) and [b](#gone-too)") == ["gone", "gone-too"]
    assert nowhere(here, "[a](docs/gate.md#audit-log), [b](#state), [c](https://x/#y)") == []


def test_a_path_that_is_gone_is_found() -> None:
    there = "`roles/*/vars/<Distribution>.yml` `tasks.py` `images/X.toml` `gate/policy/rules.py`"
    gone = ["src/serai/gate/gone.py", "gone.py", "images/gone.toml", "roles/*/gone/<Name>.yml"]
    assert missing(there) == []
    assert missing(" ".join(f"`{path}`" for path in gone)) == gone


def test_every_file_of_the_tree_is_text() -> None:
    """What a cache or a build leaves behind is no part of it."""
    for name in run(["git", "-C", ROOT, "ls-files", "-z"]).stdout.split("\0"):
        if (path := ROOT / name).is_file():
            path.read_text(encoding="utf-8")
