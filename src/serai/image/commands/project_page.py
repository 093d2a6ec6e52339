"""The page about a project's images and roles, written from their files."""

from __future__ import annotations

import shlex
from pathlib import Path

from serai.image import cache
from serai.image.commands import roles_page
from serai.image.definition import definition, variables
from serai.image.errors import BuildError
from serai.image.settings import Settings

PAGE = "IMAGES.md"

_INTRODUCTION = """# Images

Written by `serai-build docs` from `images/` and `roles/`.
"""


def write(settings: Settings) -> Path:
    """Write the page of the project; raises BuildError for an image that is not as it must be."""
    if settings.project is None:
        raise BuildError("this is no project", hint="'serai-build new DIR' makes one")
    path = settings.project.directory / PAGE
    cache.write(path, text(settings))
    return path


def text(settings: Settings) -> str:
    """The page, in Markdown."""
    own = [name for name in definition.names(settings) if _is_own(settings, name)]
    parts = [_INTRODUCTION, *(_image(settings, name) for name in own)]
    specs = [role / "meta/argument_specs.yml" for role in variables.own_roles(settings)]
    parts += [roles_page.section(path, "role ") for path in specs if path.is_file()]
    return "".join(parts)


def _is_own(settings: Settings, name: str) -> bool:
    return not definition.path_of(settings, name).is_relative_to(settings.root)


def _image(settings: Settings, name: str) -> str:
    image, sources = definition.load_with_sources(settings, name)
    lines = [f"\n## {name}\n", f"{image.summary}.\n"]
    of = definition.flavour_of(settings, name)
    system = f"{image.distribution} {image.release} for {image.arch}"
    lines.append(f"It is {system}{f', a flavour of `{of}`' if of else ''}.\n")
    for layer, roles in image.roles.model_dump().items():
        if roles:
            named = ", ".join(f"`{role}`" for role in roles)
            lines.append(f"Roles in the layer `{layer}`: {named}.\n")
    if image.variables:
        known = variables.options(settings)
        lines += ["| variable | value | from | meaning |", "|---|---|---|---|"]
        for key, value in sorted(image.variables.items()):
            meaning = roles_page.prose(known[key].description)
            shown, source = roles_page.shown(value), sources[f"variables.{key}"]
            lines.append(f"| `{key}` | `{shown}` | {source} | {meaning} |")
        lines.append("")
    if image.checks:
        lines += ["| check | where | command | prints |", "|---|---|---|---|"]
        for check in image.checks:
            where = "session" if check.session else "VM"
            command = roles_page.cell(shlex.join(check.command))
            prints = f"`{roles_page.cell(check.output)}`" if check.output else ""
            lines.append(f"| {roles_page.cell(check.name)} | {where} | `{command}` | {prints} |")
    return "\n".join(lines).rstrip() + "\n"
