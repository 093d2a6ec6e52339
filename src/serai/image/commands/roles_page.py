"""The page about all roles and their variables, written from their argument specs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

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
    return _INTRODUCTION + "".join(_section(path) for path in roles)


def _section(path: Path) -> str:
    spec = yaml.safe_load(path.read_text())["argument_specs"]["main"]
    lines = [f"\n## {path.parents[1].name}\n", f"{_prose(spec['short_description'])}.\n"]
    for paragraph in _list(spec.get("description", [])):
        lines.append(f"{textwrap.fill(_prose(paragraph), 100, break_on_hyphens=False)}\n")
    options = spec.get("options", {})
    if options:
        lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(name, option) for name, option in options.items()]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, option: dict[str, Any]) -> str:
    kind = option.get("type", "str")
    if "elements" in option:
        kind += f" of {option['elements']}"
    if "choices" in option:
        kind = ", ".join(f"`{_value(choice)}`" for choice in option["choices"])
    default = f"`{_value(option['default'])}`" if "default" in option else "see `defaults/`"
    meaning = " ".join(_prose(part) for part in _list(option["description"]))
    return f"| `{name}` | {kind} | {default} | {meaning} |"


def _value(value: object) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...").replace("|", "\\|")


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _prose(value: str) -> str:
    """Without Ansible's markup: C(...) is what Markdown has between backticks."""
    return re.sub(r"C\(([^)]*)\)", r"`\1`", value).replace("|", "\\|")
