"""The texts that some formats have beside the disk, filled in from templates."""

from __future__ import annotations

from pathlib import Path

import jinja2

_FOLDER = Path(__file__).parent / "data" / "targets"


def render(name: str, **values: object) -> str:
    """The template ``name`` with ``values``; in XML they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("xml.j2",)),
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)
