"""What an agent is told about its folders and its sandbox: as JSON, and for a prompt. Pure.

The JSON is described by data/hints.schema.json. The fragment comes from a Jinja2 template, which a
product can replace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.common.sandboxes import STRICT
from serai.runtime.folders.attachments import Attachment
from serai.runtime.folders.mounts import Seen
from serai.runtime.folders.path_roles import ROLES

VERSION = 1
DATA = Path(__file__).parent / "data"
TEMPLATE = DATA / "hints.j2"
RULE = (
    "Before you say where a file is, or copy or move one, look: run `pwd` and `ls`. "
    "Directories can be attached and detached while you work; this description is then made again."
)


def make(
    name: str,
    home: Path,
    attached: Mapping[str, Attachment],
    there: Mapping[str, Seen] | None,
    problems: Mapping[str, str],
    *,
    sandbox: str = STRICT,
) -> dict[str, Any]:
    """The hints of the session ``name``.

    ``there`` is what is mounted in its home by relative path (None: it does not run), ``problems``
    tells by role why an attached folder is not.
    """
    found = []
    for role, it in ROLES.items():
        at = attached.get(role)
        if at is None and role == "workdir":
            continue  # without a folder from outside there is none
        mount = (there or {}).get(it.folder)
        available = at is None or there is None or mount is not None
        writable = at.writable and (mount is None or mount.writable) if at else it.writable
        found.append(
            {
                "role": role,
                "path": str(home / it.folder),
                "vm_path": at.path if at else str(home / it.folder),
                "host_path": (at.host_path or None) if at else None,
                "writable": writable,
                "attached": at is not None,
                "available": available,
                "problem": problems.get(role),
                "purpose": it.purpose,
            }
        )
    told = {"version": VERSION, "session": name, "sandbox": sandbox}
    return {**told, "rule": RULE, "roles": found}


def encode(hints: Mapping[str, Any]) -> bytes:
    """The hints as the file that a session can read."""
    return json.dumps(hints).encode() + b"\n"


def prompt(hints: Mapping[str, Any], template: Path = TEMPLATE) -> str:
    """The fragment that ``template`` makes of the hints. Raises SeraiError if it can't."""
    try:
        import jinja2  # noqa: PLC0415  # costs 40 ms and some megabytes; few ask for it
    except ImportError:
        raise SeraiError("the prompt takes Jinja2", "install python3-jinja2") from None
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # text for a model, no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A path may hold anything: as JSON text it stays one word on one line.
    environment.filters["quoted"] = json.dumps
    try:
        return environment.from_string(template.read_text("utf-8")).render(hints)
    except Exception as error:  # a template is code, and fails as code does
        raise SeraiError(f"the template {template} cannot be used: {error}") from error
