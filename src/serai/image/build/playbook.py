"""The layers of an image: the plays of ``playbooks/image.yml``, each built on the one before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from serai.image import digest
from serai.image.definition import pins, variables
from serai.image.definition.definition import Additions
from serai.image.errors import BuildError
from serai.image.settings import Settings

BUILD_USER = "serai-build"
"""The user as whom a build logs in; roles/seal has the same default, and takes it away."""

WHEEL_ROLE = "runtime"
"""The role that builds the wheel of this checkout and installs it."""

FILE = "image.yml"

_TRUST = dict.fromkeys(
    ("NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    "/etc/ssl/certs/ca-certificates.crt",
)
"""By which programs that bring authorities of their own trust those that a project adds."""

PLACES = {"system": "hardening", "serai": "seal"}
"""Before which of our roles a project's own come, by layer: what ours do last stays the last."""

SEALING_ROLE = "seal"
"""The role that writes into the image which one it is."""

PINNING_ROLE = "toolchain"
"""The role that installs what pins.yml pins."""


@dataclass(frozen=True)
class Layer:
    """One play: its tag, its roles in order, and the digests of what it applies."""

    name: str
    roles: tuple[str, ...]
    digests: dict[str, str]


def plays(settings: Settings, roles: Additions) -> list[dict[str, Any]]:
    """The plays of the playbook, with a project's ``roles`` at their places, as Ansible has them.

    Raises BuildError if a play has not exactly one tag, by which the build names and selects it,
    or names a role that does not exist.
    """
    path = settings.root / "playbooks" / FILE
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    there = {each.name for each in variables.roles(settings)}
    _check_own(settings, roles)
    for play in found:
        tags = play.get("tags")
        if not isinstance(tags, list) or len(tags) != 1:
            raise BuildError(
                f"{path.name}: the play {play.get('name')!r} must have exactly one tag"
            )
        own = roles.model_dump().get(tags[0], ())
        if own:
            place = play["roles"].index(PLACES[tags[0]])
            play["roles"][place:place] = own
        if settings.project:
            own_environment = {**_TRUST, **settings.project.build.environment()}
            play["environment"] = {**own_environment, **play.get("environment", {})}
        for role in _names(play):
            if role not in there:
                raise BuildError(
                    f"the layer {tags[0]} uses the role {role!r}, which is not there",
                    hint=f"the roles are: {', '.join(sorted(there))}",
                )
    return found


def _check_own(settings: Settings, roles: Additions) -> None:
    """Each is the project's own, and there once."""
    own = [each.name for each in variables.own_roles(settings)]
    for name in roles.names:
        if name not in own:
            raise BuildError(
                f"[roles] names {name!r}, and the project has no such role",
                hint=f"its roles are: {', '.join(own) or 'none'}",
            )
        if roles.names.count(name) > 1:
            raise BuildError(f"[roles] names {name!r} twice", hint="leave one of them out")


def read(settings: Settings, roles: Additions) -> list[Layer]:
    """The layers in the order in which they are built, with a project's ``roles``.

    Raises BuildError as ``plays`` does.
    """
    return [_layer(settings, play) for play in plays(settings, roles)]


def _names(play: dict[str, Any]) -> tuple[str, ...]:
    return tuple(role if isinstance(role, str) else role["role"] for role in play["roles"])


def _layer(settings: Settings, play: dict[str, Any]) -> Layer:
    (tag,), roles = play["tags"], _names(play)
    homes = {each.name: each for each in variables.roles(settings)}
    own = {each.name: each for each in variables.own_roles(settings)}
    digests = {f"roles/{role}": digest.of_tree(homes[role]) for role in roles if role not in own}
    if own.keys() & roles:  # one may include another, which only Ansible sees
        digests |= {f"roles/{name}": digest.of_source(path) for name, path in own.items()}
    if WHEEL_ROLE in roles:
        digests.update(_wheel(settings.root))
    if PINNING_ROLE in roles:
        digests[pins.FILE] = digest.of_file(settings.root / pins.FILE)
    # By which proxy a package comes makes no other package.
    environment = {
        name: value
        for name, value in play.get("environment", {}).items()
        if not name.endswith("_proxy")
    }
    content = {**play, **({"environment": environment} if "environment" in play else {})}
    play_digest = {f"playbooks/{FILE} ({tag})": digest.of_value(content)}
    return Layer(tag, roles, {**play_digest, **digests})


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
