"""The layers of an image: the plays of ``playbooks/image.yml``, each built on the one before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from serai.image import digest
from serai.image.definition import pins
from serai.image.errors import BuildError
from serai.image.settings import Settings

BUILD_USER = "serai-build"
"""The user as whom a build logs in; roles/seal has the same default, and takes it away."""

WHEEL_ROLE = "runtime"
"""The role that builds the wheel of this checkout and installs it."""

PINNING_ROLE = "toolchain"
"""The role that installs what pins.yml pins."""


@dataclass(frozen=True)
class Layer:
    """One play: its tag, its roles in order, and the digests of what it applies."""

    name: str
    roles: tuple[str, ...]
    digests: dict[str, str]


def read(settings: Settings) -> list[Layer]:
    """The layers in the order in which they are built.

    Raises BuildError if a play has not exactly one tag, by which the build names and selects it,
    or names a role that does not exist.
    """
    path = settings.root / "playbooks" / "image.yml"
    return [_layer(play, path, settings.root) for play in yaml.safe_load(path.read_text())]


def _layer(play: dict[str, Any], path: Path, root: Path) -> Layer:
    tags = play.get("tags")
    if not isinstance(tags, list) or len(tags) != 1:
        raise BuildError(f"{path.name}: the play {play.get('name')!r} must have exactly one tag")
    roles = tuple(role if isinstance(role, str) else role["role"] for role in play["roles"])
    for role in roles:
        if not (root / "roles" / role).is_dir():
            raise BuildError(f"{path.name}: {tags[0]} uses the role {role!r}, which is not there")
    digests = {f"roles/{role}": digest.of_tree(root / "roles" / role) for role in roles}
    if WHEEL_ROLE in roles:
        digests.update(_wheel(root))
    if PINNING_ROLE in roles:
        digests[pins.FILE] = digest.of_file(root / pins.FILE)
    play_digest = {f"playbooks/{path.name} ({tags[0]})": digest.of_value(play)}
    return Layer(tags[0], roles, {**play_digest, **digests})


def _wheel(root: Path) -> dict[str, str]:
    """The digests of everything that the wheel is made of."""
    project = tomlkit.parse((root / "pyproject.toml").read_text()).unwrap()
    described = {key: project.get(key) for key in ("build-system", "project")}
    described["hatch"] = project.get("tool", {}).get("hatch")
    parts = [
        path
        for path in (root / "src/serai").iterdir()
        # As pyproject.toml has it: the build host's half is not in the wheel.
        if path.name != "image" and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]
    sources = {
        f"src/serai/{path.name}": digest.of_tree(path) if path.is_dir() else digest.of_file(path)
        for path in parts
    }
    return {**sources, "pyproject.toml (wheel)": digest.of_value(described)}
