"""The page about the settings files of a VM, written from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serai.gate import profiles
from serai.gate import settings as gate_settings
from serai.gate.policy.rules import Rule
from serai.runtime import settings as session_settings
from serai.runtime import syslog
from serai.runtime.folders import shares

PAGE = "docs/settings.md"

_INTRODUCTION = """# Settings

Written by `invoke docs` from the code that reads the files; a test holds this page against it. All
five are TOML files below `/etc/serai`. A key that is missing has its default. An unknown key or a
wrong type is an error that names the file and the key: a limit that is silently ignored is worse
than none. Roles write the files at each build and each `invoke provision`, so make lasting
changes with the variables that are named here ([Roles](roles.md)).
"""


@dataclass(frozen=True)
class _File:
    """A settings file: the class that reads it, and ``about`` it.

    ``variables``: by table and key, the variable of a role that writes it, if each key has its own.
    """

    name: str
    kind: type
    about: str
    variables: Mapping[str, str] = field(default_factory=dict)


_FILES = (
    _File(
        "session.toml",
        session_settings.SessionSettings,
        "The limits of sessions, and what they see. After a change, `systemctl reload "
        "serai-sessiond`: commands go on, and a wrong file is refused. The parts of a sandbox "
        "(`hostname`, `visible`, the size of /tmp) change when a session starts again. The role "
        "`runtime` writes the keys that have a variable; the others always have their default "
        "where that role runs.",
        variables={
            "attachable": "runtime_attachable",
            "sandboxes": "runtime_sandboxes",
            "environment": "runtime_environment",
            "resources.memory_max": "runtime_memory_max",
            "resources.tasks_max": "runtime_tasks_max",
            "resources.cpu_weight": "runtime_cpu_weight",
            "resources.io_weight": "runtime_io_weight",
            "disk.quota": "runtime_disk_quota",
            "disk.act_free": "runtime_act_free",
            "pool.size": "runtime_pool_size",
        },
    ),
    _File(
        "gate.toml",
        gate_settings.Settings,
        "The gate's own limits. `serai-gate` reads it when it starts: after a change, "
        "`systemctl restart serai-gate`. Sessions go on, open connections end. The role `gate` "
        "writes it from `gate_limits`, `gate_timeouts`, `gate_audit` and `gate_upstream`. Sessions "
        "can read `/etc`, so a file with a password must not be readable by everybody.",
    ),
    _File(
        "policy.d/NAME.toml",
        profiles.Profile,
        "The profile NAME: what the sessions that have it may reach ([the gate](gate.md) explains "
        "rules). After a change, `systemctl reload serai-gate`. The role `gate` writes the files "
        "from `gate_profiles`. A rule is a host, `*.HOST`, `*`, an address or a range, with or "
        "without `:PORT`; a host's may go on with methods and a path.",
    ),
    _File(
        "syslog.toml",
        syslog.Settings,
        "Where `serai-audit-syslog` forwards the audit log to "
        "([the gate](gate.md#to-a-syslog-server)). After a change, `systemctl restart "
        "serai-audit-syslog`. The role `runtime` writes it from `runtime_audit_syslog`.",
    ),
    _File(
        "shares.toml",
        shares.Shares,
        "The purpose of each share of the host, by its tag ([directories](folders.md)). It is read "
        "when a share is mounted and when a directory is attached. The role `shares` writes it "
        "from `shares_tags`.",
    ),
)


def text() -> str:
    """The page, in Markdown."""
    return _INTRODUCTION + "".join(map(_section, _FILES))


def _section(file: _File) -> str:
    lines = [f"\n## {file.name}\n", f"{_wrapped(file.about)}\n"]
    for heading, kind in _tables(file.kind, ""):
        rows = [_row(kind, entry, _variable(file, heading, entry.name)) for entry in _keys(kind)]
        if heading:
            lines += [f"### {heading}\n", f"{_prose(kind)}\n"]
        if rows:
            names = [
                "key",
                "type",
                "default",
                "range",
                *(["variable"] if file.variables else []),
                "meaning",
            ]
            lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _tables(kind: type, name: str) -> Iterator[tuple[str, type]]:
    """Each table of a file and the class that reads it, the file's own top level first."""
    yield (f"[{name}]" if name else ""), kind
    for entry in dataclasses.fields(kind):
        inner = _table(_hints(kind)[entry.name])
        if inner is not None:
            below, form = inner
            yield from _tables(below, form.format(f"{name}.{entry.name}".lstrip(".")))


def _keys(kind: type) -> list[dataclasses.Field[Any]]:
    """The fields that are values and not tables of their own."""
    hints = _hints(kind)
    return [entry for entry in dataclasses.fields(kind) if _table(hints[entry.name]) is None]


def _table(hint: Any) -> tuple[type, str] | None:
    """The class that reads a table, and the form of its name, also if there may be several; None
    for a value, which a rule is: it is written as a text."""
    origin, inner, form = typing.get_origin(hint), hint, "{}"
    if origin is Mapping:
        inner, form = typing.get_args(hint)[1], "{}.TAG"
    elif origin is tuple:
        inner, form = typing.get_args(hint)[0], "[{}]"
    known = dataclasses.is_dataclass(inner) and inner is not Rule
    return (typing.cast("type", inner), form) if known else None


def _row(kind: type, entry: dataclasses.Field[Any], variable: list[str]) -> str:
    meaning = str(entry.metadata["help"]).replace("|", "\\|")
    known = _type(_hints(kind)[entry.name])
    if known == "whole number" and entry.metadata["parse"]:
        known = "number or size"
    cells = [f"`{entry.name}`", known, _default(entry), _range(entry), *variable, meaning]
    return f"| {' | '.join(cells)} |"


def _variable(file: _File, heading: str, key: str) -> list[str]:
    """The cell with the key's variable; none where no key of the file has its own."""
    if not file.variables:
        return []
    name = file.variables.get(f"{heading.strip('[]')}.{key}".lstrip("."))
    return [f"`{name}`" if name else "none"]


def _type(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (hint,) = (each for each in inner if each is not type(None))
    if origin is tuple:
        return f"list of {_type(inner[0])}s"
    if origin is Mapping:
        return f"table of {_type(inner[1])}s"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Rule: "rule"}
    return words[hint]


def _default(entry: dataclasses.Field[Any]) -> str:
    made = entry.default_factory
    value = made() if made is not dataclasses.MISSING else entry.default
    if value is None or (entry.metadata["choices"] and value not in entry.metadata["choices"]):
        return "see the meaning"
    if isinstance(value, Mapping):
        return "empty"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _range(entry: dataclasses.Field[Any]) -> str:
    least, most, choices = (entry.metadata[key] for key in ("minimum", "maximum", "choices"))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if least is None:
        return ""
    return f"{least:.15g} to {most:.15g}" if most is not None else f"{least:.15g} or more"


def _prose(kind: type) -> str:
    return _wrapped(inspect.cleandoc(kind.__doc__ or "").replace("``", "`"))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
