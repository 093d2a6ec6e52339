"""Whether a VM can be provisioned, judged by the line that the play's first look prints."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from serai.image.definition import variables
from serai.image.settings import Settings

SYSTEMS = ("ubuntu-22.04", "ubuntu-24.04", "debian-12", "debian-13")
"""Those that the roles are for, as ID and VERSION_ID of os-release(5)."""

_CLOSE = 0.9  # how alike two names are of which one is a mistake; no two of the roles' own are


def problems(
    look: str, has_password: bool, names: Collection[str] = (), only: Collection[str] = ()
) -> list[str]:
    """What somebody has to do first, a sentence each; empty if nothing.

    ``look`` is 'system=ID-VERSION python=yes|no sudo=yes|asks|absent user=NAME serai=yes|no|cut',
    ``has_password`` whether sudo's password is known, ``names`` those of all variables that are
    set, ``only`` the roles that are played, if not all are.
    """
    found = dict(re.findall(r"(\w+)=(\S*)", look))
    system, sudo = found.get("system", "an unknown system"), found.get("sudo")
    sentences = []
    if system not in SYSTEMS:
        sentences.append(f"this is {system}, and the roles are for {', '.join(SYSTEMS)}")
    if sudo == "absent":
        sentences.append("sudo is not installed; install it as root: apt-get install sudo")
    if sudo == "asks" and not has_password:
        sentences.append(
            f"sudo wants a password of {found.get('user', 'this user')}, or refuses; "
            "allow it without one, or give one with --sudo-password FILE"
        )
    if found.get("python") == "no":
        sentences.append("python3 is missing; install it: apt-get install python3")
    if only and found.get("serai") == "no":
        sentences.append("Serai is not there yet; provision it first without --only")
    if only and found.get("serai") == "cut":
        sentences.append("the run before was cut off; finish it first, without --only")
    sentences += [f"{name} {variables.FORMER}" for name in variables.FORMER_LIVE if name in names]
    return sentences + misspelt(names)


def misspelt(names: Collection[str]) -> list[str]:
    """A sentence for each name that nobody reads and that is all but a role's variable.

    An inventory has variables of its own, so only what begins as a role's does is looked at.
    """
    known = variables.options(Settings.of())
    roles = tuple({f"{option.role}_" for option in known.values()})
    sentences = []
    for name in sorted(set(names) - set(known) - set(variables.FORMER_LIVE)):
        if name.startswith(roles) and (close := difflib.get_close_matches(name, known, 1, _CLOSE)):
            sentences.append(f"{name} is no role's variable; did you mean {close[0]}?")
    return sentences
