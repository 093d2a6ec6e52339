"""The page about all roles and their variables, written from their argument specs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from serai.image.definition import variables
from serai.image.settings import Settings

PAGE = "docs/roles.md"

_INTRODUCTION = """# Roles and their variables

Written by `invoke docs` from `roles/*/meta/argument_specs.yml`; a test holds it against them. An
image chooses in the table `[variables]` of its file in `images/`, one build with
`--set variables.NAME=VALUE`, and Ansible in any of its own ways.

The playbooks set one more variable for all roles, `serai_live`: whether this VM runs already.
Where it does (`provision.yml`), services start and take their new configuration at once; otherwise
(`image.yml`) they do so at the next boot. A playbook of your own has to set it, too.
"""


def text(settings: Settings) -> str:
    """The page, in Markdown."""
    roles = sorted((settings.root / "roles").glob("*/meta/argument_specs.yml"))
    return _INTRODUCTION + "".join(section(path) for path in roles)


def section(path: Path, word: str = "") -> str:
    """About the role that has the argument spec ``path``; ``word`` comes before its name."""
    spec = ((variables.loaded(path).get("argument_specs") or {}).get("main")) or {}
    lines = [f"\n## {word}{path.parents[1].name}\n"]
    if short := prose(spec.get("short_description", "")):
        lines.append(f"{short}.\n")
    for paragraph in _list(spec.get("description", [])):
        lines.append(f"{textwrap.fill(prose(paragraph), 100, break_on_hyphens=False)}\n")
    options = spec.get("options") or {}
    if options:
        lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(name, option) for name, option in options.items()]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, option: dict[str, Any]) -> str:
    kind = option.get("type", "str")
    if "elements" in option:
        kind += f" of {option['elements']}"
    if "choices" in option:
        of = "list of " if "elements" in option else ""
        kind = of + ", ".join(f"`{shown(choice)}`" for choice in option["choices"])
    default = f"`{shown(option['default'])}`" if "default" in option else "see `defaults/`"
    if option.get("required"):
        default = "none, required"
    meaning = prose(option.get("description", ""))
    return f"| `{name}` | {kind} | {default} | {meaning} |"


def shown(value: object) -> str:
    """A value as YAML has it, in a cell of a table."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return cell(dumped.removesuffix("\n").removesuffix("\n..."))


def _list(value: object) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def prose(value: object) -> str:
    """Without Ansible's markup: C(...) is what Markdown has between backticks."""
    return cell(re.sub(r"C\(([^)]*)\)", r"`\1`", " ".join(_list(value))))


def cell(text: str) -> str:
    """The text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
