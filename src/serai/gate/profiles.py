"""Named profiles (``/etc/serai/policy.d/NAME.toml``) and what is set for one session beside them.

A profile is a TOML file with ``allow`` and ``deny``, lists of rules, and ``summary``, a text for
people. An unknown key is an error: a rule that is silently ignored is worse than none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.gate.rules import Rule, Rules, combined, rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_HINT = "see the rules in the reference of settings"


@dataclass(frozen=True)
class Policy:
    """What is set for one session: its profile, and rules of its own in canonical spelling."""

    profile: str = DEFAULT
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The policy as JSON has it; ``policy`` reads it back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def load(folder: Path) -> dict[str, Rules]:
    """The profiles in ``folder`` by name; none if there is no such folder.

    A folder that has no profile ``default`` gets one that denies everything. Hidden files, and
    files that do not end in ``.toml``, are not profiles. Raises SeraiError naming the file and the
    key for anything it does not understand.
    """
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix == ".toml" and not path.name.startswith(".")
        )
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SeraiError(f"cannot read the profiles in {folder}: {error}") from error
    return {DEFAULT: Rules()} | {_name(path): read(path) for path in files}


def policy(data: Mapping[str, Any]) -> Policy:
    """The policy that ``data``, as JSON has it, describes, with every rule in its one spelling.

    What is missing is empty, or the profile ``default``. Raises SeraiError naming the key for
    anything else than that; whether the profile exists is for ``effective`` to say.
    """
    try:
        if not isinstance(data, Mapping):
            raise ValueError(f"it must be a table, not {data!a}")
        _known(data, ("profile", "allow", "deny"))
        profile = data.get("profile", DEFAULT)
        if not isinstance(profile, str) or not _NAME.fullmatch(profile):
            raise ValueError(f"profile must be a name of a-z, 0-9 and hyphens, not {profile!a}")
        allow, deny = (_rules(data.get(key, []), key) for key in ("allow", "deny"))
    except ValueError as error:
        raise SeraiError(f"the session's policy cannot be used: {error}", hint=_HINT) from error
    return Policy(profile, _texts(allow), _texts(deny))


def effective(policy: Policy, profiles: Mapping[str, Rules]) -> Rules:
    """The rules of ``policy`` and of its profile together; a deny of either wins.

    The profile ``default`` always exists. Raises SeraiError if another one is not in ``profiles``,
    or if a rule of ``policy`` is none.
    """
    rules = profiles.get(policy.profile, Rules() if policy.profile == DEFAULT else None)
    if rules is None:
        known = ", ".join(sorted({DEFAULT, *profiles}))
        raise SeraiError(f"there is no profile {policy.profile!a}", hint=f"there are: {known}")
    try:
        own = Rules(_rules(policy.allow, "allow"), _rules(policy.deny, "deny"))
    except ValueError as error:
        raise SeraiError(f"the session's policy cannot be used: {error}", hint=_HINT) from error
    return combined(rules, own)


def _name(path: Path) -> str:
    if not _NAME.fullmatch(path.stem):
        raise SeraiError(
            f"{path}: {path.stem!a} cannot be a profile's name",
            hint="a name has 1 to 63 of a-z, 0-9 and hyphens",
        )
    return path.stem


def read(path: Path) -> Rules:
    """The profile in a file of any name. Raises SeraiError naming the file and the key."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SeraiError(f"cannot read the profile {path}: {error}") from error
    try:
        _known(data, ("allow", "deny", "summary"))
        if not isinstance(data.get("summary", ""), str):
            raise ValueError(f"summary must be a text, not {data['summary']!a}")
        return Rules(_rules(data.get("allow", []), "allow"), _rules(data.get("deny", []), "deny"))
    except ValueError as error:
        raise SeraiError(f"{path}: {error}", hint=_HINT) from error


def _known(data: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in data:
        if key not in keys:
            raise ValueError(f"unknown key {key!a}; known are {', '.join(keys)}")


def _rules(value: Any, key: str) -> tuple[Rule, ...]:
    """The rules that the texts in ``value`` write, each once."""
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{key} must be a list of texts, not {value!a}")
    try:
        return tuple(dict.fromkeys(rule(text) for text in value))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _texts(rules: Iterable[Rule]) -> tuple[str, ...]:
    return tuple(entry.text for entry in rules)
