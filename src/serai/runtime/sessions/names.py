"""Session names: what is allowed, and how one is made up when nobody gives one.

A session's name is also its Linux user name, its home's folder and part of its unit's name, so it
keeps to what all three take without quoting.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from serai.common.errors import INVALID_PARAMS, SeraiError

# useradd(8) takes 32 characters; one less also fits utmp's field with its final NUL.
MAX_LENGTH = 31
PATTERN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)

# Accounts and units that a VM may get later; what it has now is read from /etc.
_ACCOUNTS = """
root daemon bin sys sync games man lp mail news uucp proxy backup list irc nobody nogroup sshd
messagebus polkitd syslog landscape tss uuidd tcpdump pollinate lxd ubuntu debian admin sudo adm
wheel users shadow staff kvm docker serai
"""
RESERVED = frozenset(_ACCOUNTS.split())
RESERVED_PREFIXES = ("systemd-", "serai-")
ATTEMPTS = 64


def check(name: str, taken: Iterable[str] = ()) -> str:
    """Return ``name`` if a session may be called so.

    ``taken`` are the VM's own users and groups. Raises SeraiError otherwise.
    """
    if len(name) > MAX_LENGTH:
        raise _refused(f"a session name has at most {MAX_LENGTH} characters, not {len(name)}")
    if PATTERN.fullmatch(name) is None:
        raise _refused(f"{name!a} is no session name")
    if name in RESERVED or name.startswith(RESERVED_PREFIXES) or name in set(taken):
        raise _refused(f"{name!r} is reserved for the VM itself")
    return name


def make_up(used: Callable[[str], bool]) -> str:
    """An adjective-adjective-noun for which ``used`` is false.

    Raises SeraiError if none is found in a reasonable number of attempts.
    """
    pick = random.SystemRandom().choice
    for _ in range(ATTEMPTS):
        first, second = pick(_words("adjectives")), pick(_words("adjectives"))
        name = f"{first}-{second}-{pick(_words('nouns'))}"
        if first != second and len(name) <= MAX_LENGTH and not used(name):
            return name
    raise SeraiError("no unused session name was found", "give the session a name")


def system_names(etc: Path = Path("/etc")) -> frozenset[str]:
    """The users and groups in ``etc``'s own passwd and group, where sessions never are."""
    found: set[str] = set()
    for file in (etc / "passwd", etc / "group"):
        if file.exists():
            found.update(line.split(":", 1)[0] for line in file.read_text().splitlines())
    return frozenset(found)


@cache
def _words(kind: str) -> list[str]:
    return (Path(__file__).parent / "data" / f"{kind}.txt").read_text().split()


def _refused(message: str) -> SeraiError:
    hint = "use lower-case words of a-z and 0-9 joined by single hyphens, a letter first"
    return SeraiError(message, hint, INVALID_PARAMS)
