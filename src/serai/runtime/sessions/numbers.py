"""UIDs and GIDs that the VM knows already, and that no session may get."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path


def taken(number: int, root: Path = Path("/")) -> str:
    """What else has a session's number, as UID, GID or in a subordinate range; '' if nothing has.

    The sessions' own accounts (libnss-extrausers) count as well: a number is used for one only.
    """
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        pass
    try:
        return f"group {grp.getgrgid(number).gr_name}"
    except KeyError:
        pass
    return subordinate(number, root)


def subordinate(number: int, root: Path = Path("/")) -> str:
    """The range in subuid(5) or subgid(5) that has a number; '' if none has."""
    for name in ("subuid", "subgid"):
        try:
            lines = (root / "etc" / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            owner, _, rest = line.partition(":")
            first, _, count = rest.partition(":")
            if first.isdigit() and count.isdigit() and 0 <= number - int(first) < int(count):
                return f"{name} of {owner}"
    return ""
