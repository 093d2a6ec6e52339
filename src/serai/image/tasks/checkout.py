"""Tasks about the checkout: linters, tests, generated pages, packages and pins."""

from __future__ import annotations

from invoke.context import Context

from serai.image import console
from serai.image.commands import dist, docs_site, lint, pages, project_page, pythons, show, test
from serai.image.commands.options import command
from serai.image.tasks.defaults import SETTINGS


@command(name="lint")
def run_linters(_c: Context) -> None:
    """Run every linter."""
    lint.lint(SETTINGS)


@command(name="test")
def run_tests(_c: Context, layer: str = "", lint: bool = False) -> int:
    """Run the tests."""
    return test.test(SETTINGS, layer, linted=lint)


@command(name="pythons")
def test_pythons(_c: Context, release: str = "") -> None:
    """Test the VM's half on the Python and the packages of each release."""
    pythons.pythons(SETTINGS, release)


@command(name="dist")
def make_dist(_c: Context) -> None:
    """Build wheels, an sdist and a collection of the roles into dist/python/, and try them."""
    dist.dist(SETTINGS)


@command()
def docs(_c: Context, site: bool = False) -> None:
    """Write the generated pages of docs/, or IMAGES.md of a project."""
    if SETTINGS.project:
        console.say(str(project_page.write(SETTINGS)))
        return
    for page in pages.write(SETTINGS):
        console.say(str(page))
    if site:
        console.say(str(docs_site.build(SETTINGS)))


@command()
def pins(_c: Context, *, json: bool = False) -> int:
    """List the pinned versions whose review date has passed (status 1 if there are any)."""
    return show.pins(SETTINGS, as_json=json)
