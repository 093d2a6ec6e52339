"""What an image chooses of its roles: the table ``[variables]`` of ``images/*.toml``.

Every role declares its variables with types and choices in ``meta/argument_specs.yml``; a
definition is checked against these before anything is built, and a layer's key and Ansible get
what its own roles declare. A variable of the type 'path' names a file or a directory on the build
host, and its content goes into the key; paths in the VM have the type 'str'.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serai.image import digest
from serai.image.errors import BuildError
from serai.image.settings import Settings

_FOLDER = "roles"
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # Debian Policy, 5.6.1
TOOLCHAIN = "toolchain"
"""The role of what sessions work with."""

FORMER_LIVE = (
    "base_apply_now",
    "hardening_apply_now",
    "session_disk_mount_now",
    "shares_mount_now",
    "runtime_start",
    "gate_start",
)
"""What roles asked in 0.1 for what the playbooks now say once: serai_live."""

FORMER = "is no variable any more: remove it, the playbooks set serai_live for all roles"

_TYPES: dict[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "str": (str, "a text"),
    "path": (str, "a path"),
    "list": (list, "a list"),
    "dict": (dict, "a table"),
}
"""What an argument spec's type is in Python, and in words."""


@dataclass(frozen=True)
class Option:
    """A role's variable, as its argument spec has it."""

    role: str
    type: str
    choices: tuple[object, ...] = ()
    elements: str = ""
    required: bool = False
    description: object = ""

    def sources(self, value: Any) -> tuple[str, ...]:
        """The paths on the build host that ``value`` names."""
        if self.type == "path" and value:
            return (value,)
        return tuple(value) if self.type == "list" and self.elements == "path" else ()

    def complaint(self, value: object) -> str:
        """What is wrong with ``value``, '' if nothing is."""
        kind, words = _TYPES.get(self.type, (type(value), ""))
        if type(value) is not kind:
            return f"must be {words}, it is {value!r}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}, it is {value!r}"
        if isinstance(value, list) and self.elements:
            kind, words = _TYPES.get(self.elements, (object, ""))
            wrong = [each for each in value if kind is not object and type(each) is not kind]
            return f"has {wrong[0]!r} in it, not {words}" if wrong else ""
        return ""


def options(settings: Settings) -> dict[str, Option]:
    """Every variable of every role by its name."""
    found: dict[str, Option] = {}
    for role in roles(settings):
        path = role / "meta/argument_specs.yml"
        if not path.is_file():
            continue  # a project's own may have no variables
        for name, spec in _declared(path).items():
            if name in found:
                raise BuildError(
                    f"{path}: {name} is a variable of the role {found[name].role} already",
                    hint="give it another name",
                )
            found[name] = _option(role.name, spec)
    return found


def roles(settings: Settings) -> list[Path]:
    """The directories of all roles, the project's last; raises BuildError for a name of two."""
    found: dict[str, Path] = {}
    for home in reversed(settings.homes):
        for path in sorted((home / _FOLDER).glob("*/")):
            if path.name in found:
                raise BuildError(
                    f"{path}: Serai has a role of that name", hint="give yours another name"
                )
            found[path.name] = path
    return list(found.values())


def own_roles(settings: Settings) -> list[Path]:
    """The directories of the project's roles."""
    ours = settings.root / _FOLDER
    return [path for path in roles(settings) if path.parent != ours]


def loaded(path: Path) -> dict[str, Any]:
    """A role's YAML, which is a table; raises BuildError. What is encrypted stays a text."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise BuildError(f"{path} is not YAML: {first}", hint="correct that file") from None
    if table is None:
        return {}
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table):
        raise BuildError(f"{path} is no table of names and values", hint="correct that file")
    return table


class _Loader(yaml.SafeLoader):
    """Knows of Ansible's own tags, such as !vault, that they are there."""


_Loader.add_multi_constructor("!", lambda _loader, _tag, node: str(node.value))


def _declared(path: Path) -> dict[str, Any]:
    """The variables of a role by name."""
    table: Any = loaded(path)
    for key in ("argument_specs", "main", "options"):
        table = table.get(key) or {}
        if not isinstance(table, dict):
            raise BuildError(f"{path}: {key} is no table", hint="see docs/projects.md")
    for name, spec in table.items():
        good = isinstance(name, str) and isinstance(spec, dict)
        if not good or not isinstance(spec.get("type", ""), str):
            raise BuildError(
                f"{path}: {name} has no table with a type", hint="see docs/projects.md"
            )
        if not isinstance(spec.get("choices") or [], list):
            raise BuildError(f"{path}: the choices of {name} are no list", hint="correct that file")
    return dict(table)


def check(settings: Settings, chosen: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Raise BuildError, naming file and key, for a choice that no role has or that is wrong."""
    known = options(settings) if chosen else {}
    for name, value in chosen.items():
        key = f"variables.{name}"
        check_one(known, name, value, f"{sources.get(key, '[variables]')}: {key}")


def check_one(known: Mapping[str, Option], name: str, value: object, where: str) -> None:
    """The same of one choice, which the message calls ``where``."""
    if name in FORMER_LIVE:
        raise BuildError(f"{where} {FORMER}")
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "see roles/*/meta/argument_specs.yml"
        raise BuildError(f"{where} is no role's variable", hint=hint)
    if complaint := known[name].complaint(value):
        raise BuildError(f"{where} {complaint}")


def of_roles(
    settings: Settings, chosen: Mapping[str, Any], roles: Collection[str]
) -> dict[str, Any]:
    """Those choices that concern ``roles``, as Ansible gets them: paths are absolute.

    A role's defaults may be made of another role's variables. Raises BuildError for a path where
    there is nothing.
    """
    known = options(settings) if chosen else {}
    used = _used(settings, roles) if chosen else set()
    return {
        name: _found(settings, known[name], name, value)
        for name, value in chosen.items()
        if known[name].role in roles or name in used
    }


def unset(settings: Settings, chosen: Mapping[str, Any], roles: Collection[str]) -> list[str]:
    """The variables that ``roles`` require and that neither ``chosen`` nor they themselves set."""
    files = ("defaults/main.yml", "vars/main.yml")
    homes = [home / _FOLDER / role for home in settings.homes for role in roles]
    paths = [home / file for home in homes for file in files if (home / file).is_file()]
    given = {*chosen, *(name for path in paths for name in loaded(path))}
    wanted = {name: each for name, each in options(settings).items() if each.required}
    return [name for name, each in wanted.items() if each.role in roles and name not in given]


def _used(settings: Settings, roles: Collection[str]) -> set[str]:
    """All words in the values of the roles' defaults, the names of variables among them."""
    homes = (home / _FOLDER / role for home in settings.homes for role in roles)
    files = (home / "defaults/main.yml" for home in homes)
    values = [list(loaded(path).values()) for path in files if path.is_file()]
    return set(re.findall(r"\w+", str(values)))


def contents(settings: Settings, chosen: Mapping[str, Any]) -> dict[str, object]:
    """What of these choices goes into a layer: values, and the digest of all that a path names.

    Raises BuildError where what it names cannot go into an image.
    """
    known = options(settings) if chosen else {}
    found: dict[str, object] = {}
    for name, value in chosen.items():
        digests = [digest.of_source(Path(path)) for path in known[name].sources(value)]
        several = isinstance(value, list)
        found[name] = {"content": digests if several else digests[0]} if digests else value
    return found


def _found(settings: Settings, option: Option, name: str, value: Any) -> Any:
    """The value with absolute paths; a relative one begins in the project, or in the checkout."""
    paths = []
    for each in option.sources(value):
        try:
            path = settings.own / Path(each).expanduser()
        except RuntimeError as error:  # a user that there is not
            raise BuildError(f"variables.{name}: {each!r}: {error}") from None
        if not each or not path.exists():
            raise BuildError(
                f"variables.{name}: there is no {path}", hint="it is a path on the build host"
            )
        paths.append(str(path))
    if not paths:
        return value
    return paths if isinstance(value, list) else paths[0]


def of_distribution(role: Path, distribution: str, release: str) -> dict[str, Any]:
    """What differs in ``role`` by distribution, and over it what differs by release.

    Ansible reads the same files: serai_variables in the playbooks.
    """
    name = distribution.capitalize()
    files = (role / "vars" / f"{each}.yml" for each in (name, f"{name}-{release}"))
    found: dict[str, Any] = {}
    for path in files:
        found |= loaded(path) if path.is_file() else {}
    return found


def packages(
    settings: Settings,
    distribution: str,
    release: str,
    chosen: Mapping[str, Any],
    own_roles: Collection[str] = (),
) -> list[str]:
    """The distribution's packages that all roles together install with these choices.

    Of a project's roles only ``own_roles`` count.
    """
    ours, found = settings.root / _FOLDER, list[str]()
    for role in roles(settings):
        path = role / "defaults/main.yml"
        if not path.is_file() or not (role.parent == ours or role.name in own_roles):
            continue
        defaults = loaded(path)
        own = of_distribution(role, distribution, release)
        for name, default in (defaults | own).items():
            value = chosen.get(name, default)
            if name.endswith("_packages") and isinstance(value, list):
                own_role = role.parent != ours
                found += [_package(x, name, path) for x in value] if own_role else value
    if profile := chosen.get("toolchain_profile"):
        own = of_distribution(ours / TOOLCHAIN, distribution, release)
        found += _of_profile(ours / TOOLCHAIN, own["toolchain_distribution_packages"], profile)
    return sorted(set(found))


def _package(value: object, name: str, where: Path) -> str:
    if isinstance(value, str) and _PACKAGE.fullmatch(value):
        return value
    raise BuildError(f"{where}: {name} has {value!r} in it, which is no package's name")


def _of_profile(role: Path, own: Mapping[str, list[str]], profile: str) -> list[str]:
    """The packages of a profile of the toolchain, which has those of all levels up to it."""
    main = yaml.safe_load((role / "vars" / "main.yml").read_text())
    levels = main["toolchain_levels"]
    return [
        package
        for level in levels[: levels.index(profile) + 1]
        for package in (*main["toolchain_added"][level], *own[level])
    ]


def _option(role: str, spec: Mapping[str, Any]) -> Option:
    choices = tuple(spec.get("choices") or ())
    required = spec.get("required") is True
    return Option(
        role=role,
        type=spec.get("type", "str"),
        choices=choices,
        elements=spec.get("elements", ""),
        required=required,
        description=spec.get("description", ""),
    )
