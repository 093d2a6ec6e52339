"""Named profiles (``/etc/serai/policy.d/NAME.toml``) and what is set for one session beside them.

A profile is a TOML file with ``allow`` and ``deny``, lists of rules, ``bind``, which secrets are
for which hosts, and ``summary``, a text for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.common import tables
from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.gate.policy import bindings
from serai.gate.policy.bindings import Binding
from serai.gate.policy.rules import Rule, Rules, combined, rule

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_HINT = "see policy.d in docs/settings.md"


def _profile(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!a} is not a name of a-z, 0-9 and hyphens")
    return text


@dataclass(frozen=True)
class Policy:
    """What is set for one session: its profile, and rules of its own in canonical spelling."""

    profile: str = setting(DEFAULT, "the profile that holds besides", parse=_profile)
    allow: tuple[str, ...] = setting((), "what it may reach", parse=lambda text: rule(text).text)
    deny: tuple[str, ...] = setting((), "what it may not reach", parse=lambda text: rule(text).text)
    bind: tuple[Binding, ...] = setting((), "which secrets are for which hosts")

    def as_dict(self) -> dict[str, Any]:
        """The policy as JSON has it; ``policy`` reads it back."""
        bind = [each.as_dict() for each in self.bind]
        lists = {"allow": list(self.allow), "deny": list(self.deny), "bind": bind}
        return {"profile": self.profile, **lists}


@dataclass(frozen=True)
class Profile:
    """A file of a profile."""

    allow: tuple[Rule, ...] = setting((), "what may be reached", parse=rule)
    deny: tuple[Rule, ...] = setting((), "what may not be reached; it wins", parse=rule)
    bind: tuple[Binding, ...] = setting((), "which secrets are for which hosts")
    summary: str = setting("", "what it is for, for people")


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
        found = tables.read(Policy, data)
    except ValueError as error:
        raise SeraiError(f"the session's policy cannot be used: {error}", hint=_HINT) from error
    bind = tuple(dict.fromkeys(found.bind))
    return Policy(found.profile, _once(found.allow), _once(found.deny), bind)


def effective(policy: Policy, profiles: Mapping[str, Rules]) -> Rules:
    """The rules of ``policy`` and of its profile together; a deny of either wins.

    The profile ``default`` always exists. Raises SeraiError if another one is not in ``profiles``,
    if a rule of ``policy`` is none, or if two bindings write the same.
    """
    rules = profiles.get(policy.profile, Rules() if policy.profile == DEFAULT else None)
    if rules is None:
        known = ", ".join(sorted({DEFAULT, *profiles}))
        raise SeraiError(f"there is no profile {policy.profile!a}", hint=f"there are: {known}")
    try:
        own = Rules(tuple(map(rule, policy.allow)), tuple(map(rule, policy.deny)), policy.bind)
    except ValueError as error:
        raise SeraiError(f"the session's policy cannot be used: {error}", hint=_HINT) from error
    both = combined(rules, own)
    if problem := bindings.clash(both.bind):
        raise SeraiError(f"the session's policy cannot be used: {problem}", hint=_HINT)
    return both


def _name(path: Path) -> str:
    if not _NAME.fullmatch(path.stem):
        raise SeraiError(
            f"{path}: {path.stem!a} cannot be a profile's name",
            hint="a name has 1 to 63 of a-z, 0-9 and hyphens",
        )
    return path.stem


def read(path: Path) -> Rules:
    """The profile in a file of any name. Raises SeraiError naming the file and the key."""
    found = tables.load(Profile, path, "the profile", hint=_HINT)
    if problem := bindings.clash(found.bind):
        raise SeraiError(f"{path}: {problem}", hint=_HINT)
    return combined(Rules(found.allow, found.deny, found.bind))


def _once(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
