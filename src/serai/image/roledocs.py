"""docs/roles.md: what each role does and what it can be told, from its argument_specs.

The defaults are read from ``defaults/main.yml``, which is what Ansible uses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from serai.image import cache
from serai.image.errors import BuildError

TARGET = Path("docs/roles.md")
_HEAD = """# Roles

Written by `invoke docs` from the roles' `meta/argument_specs.yml`; do not edit it here.

`playbooks/image.yml` applies them to an image, in the order of this page, and
`playbooks/provision.yml` to machines that already run. A variable is set in an image's definition,
in an inventory, or with `--set NAME=VALUE`.
"""


def write(root: Path) -> Path:
    """Write the page of the checkout ``root``; raises BuildError if a role has no specs."""
    target = root / TARGET
    target.parent.mkdir(exist_ok=True)
    cache.write(target, page(root))
    return target


def stale(root: Path) -> bool:
    """Whether the page is not what the roles say by now."""
    target = root / TARGET
    return not target.exists() or target.read_text() != page(root)


def page(root: Path) -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, *(_role(root / "roles" / name) for name in _names(root))])


def _names(root: Path) -> list[str]:
    """All roles: those of the image in its order, then the others."""
    plays = yaml.safe_load((root / "playbooks/image.yml").read_text())
    used = [r if isinstance(r, str) else r["role"] for play in plays for r in play["roles"]]
    others = sorted(path.name for path in (root / "roles").iterdir() if path.is_dir())
    return list(dict.fromkeys([*used, *others]))


def _role(role: Path) -> str:
    specs = role / "meta/argument_specs.yml"
    if not specs.exists():
        raise BuildError(f"the role {role.name} has no meta/argument_specs.yml")
    main = yaml.safe_load(specs.read_text())["argument_specs"]["main"]
    defaults_file = role / "defaults/main.yml"
    defaults = yaml.safe_load(defaults_file.read_text()) if defaults_file.exists() else {}
    lines = [f"## {role.name}", "", f"{_text(main['short_description'])}.", ""]
    lines += [f"- {_text(each)}" for each in _list(main.get("description"))]
    options: dict[str, Any] = main.get("options") or {}
    if options:
        lines += ["", "| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        default = (defaults or {}).get(name, option.get("default"))
        meaning = " ".join(_text(each) for each in _list(option.get("description")))
        if choices := option.get("choices"):
            meaning += f" One of {', '.join(f'`{each}`' for each in choices)}."
        cells = [f"`{name}`", _kind(option), _value(default, option), meaning]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _list(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value or "")]


def _kind(option: dict[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def _value(value: object, option: dict[str, Any]) -> str:
    if value is None:
        return "required" if option.get("required") else ""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...').strip()}`"


def _text(text: str) -> str:
    """Ansible's markup as Markdown: C(code) and friends become code."""
    marked = re.sub(r"\b[CVOEPM]\(([^)]*)\)", r"`\1`", text)
    return " ".join(marked.split())
