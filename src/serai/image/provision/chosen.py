"""Which roles a run plays."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import yaml

from serai.image.errors import BuildError
from serai.image.settings import Settings

PLAYBOOK = Path("playbooks/provision.yml")
TOGETHER = {"runtime": ("gate", "seccomp")}
"""Roles that are played with another one: what they write has to be of the same version."""


def played(settings: Settings, only: Sequence[str]) -> list[str]:
    """The roles of ``only`` and those that go with them. Raises BuildError for one there is not."""
    (play,) = yaml.safe_load((settings.root / PLAYBOOK).read_text())
    known = [role["role"] for role in play["roles"]]
    for name in only:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise BuildError(f"--only {name}: no role of that name is provisioned", hint=hint)
    wanted = {*only, *(also for name in only for also in TOGETHER.get(name, ()))}
    return [name for name in known if name in wanted]
