"""The site of docs/, as mkdocs.yml describes it."""

from __future__ import annotations

from pathlib import Path

from serai.image.run import run, search_path
from serai.image.settings import Settings


def build(settings: Settings) -> Path:
    """Build the site; returns its first page. Raises BuildError if, for example, a link is dead."""
    run(command(settings), cwd=settings.root, env={"PATH": search_path()})
    return settings.dist / "site/index.html"


def command(settings: Settings) -> list[str | Path]:
    """The command line that builds the site, which is run in the checkout."""
    # Not --quiet, with which --strict counts no warnings.
    return ["mkdocs", "build", "--strict", "--site-dir", settings.dist / "site"]
