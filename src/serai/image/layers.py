"""The layers of an image: the plays of ``playbooks/image.yml``, each built on the one before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serai.image import digest
from serai.image.errors import BuildError
from serai.image.settings import Settings


@dataclass(frozen=True)
class Layer:
    """One play: its name, its roles in order, and the digests of what it applies."""

    name: str
    roles: tuple[str, ...]
    digests: dict[str, str]


def read(settings: Settings) -> list[Layer]:
    """The layers in the order in which they are built.

    Raises BuildError if a play has no name, is not tagged with it (the build selects layers by
    tag), or names a role that does not exist.
    """
    path = settings.root / "playbooks" / "image.yml"
    return [_layer(play, path, settings.root) for play in yaml.safe_load(path.read_text())]


def _layer(play: dict[str, Any], path: Path, root: Path) -> Layer:
    name = play.get("name", "")
    if play.get("tags") not in (name, [name]):
        raise BuildError(f"{path.name}: the play {name!r} must have its name as its only tag")
    roles = tuple(role if isinstance(role, str) else role["role"] for role in play["roles"])
    for role in roles:
        if not (root / "roles" / role).is_dir():
            raise BuildError(f"{path.name}: {name} uses the role {role!r}, which does not exist")
    digests = {f"roles/{role}": digest.of_tree(root / "roles" / role) for role in roles}
    return Layer(name, roles, {f"playbooks/{path.name} ({name})": digest.of_value(play), **digests})
