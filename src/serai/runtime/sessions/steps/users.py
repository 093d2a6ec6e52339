"""The sessions' users, for libnss-extrausers. Files derived from the registry, rewritten whole.

They live in /run/serai/users, so that a full root disk cannot stop a session from being made, and
/var/lib/extrausers is a link to that folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serai.common import files

SHELL = "/bin/bash"
NO_LOGIN = "/nonexistent"
"""The shell of these users in the VM: whatever their home says is for inside.

With one that exists, nologin too, sshd would let in who wrote ~/.ssh/authorized_keys, at least for
forwarding, which is a way around the gate. One that does not exist it refuses, whatever its
settings are.
"""


def passwd_line(name: str, uid: int, shell: str = NO_LOGIN) -> str:
    """The user's line of passwd(5); the home is what the user finds inside and outside."""
    return f"{name}:x:{uid}:{uid}:Serai session:/sessions/{name}:{shell}\n"


def group_line(name: str, uid: int) -> str:
    """The line of group(5) of the group that only this user is in."""
    return f"{name}:x:{uid}:\n"


def write(folder: Path, users: Iterable[tuple[str, int]], shell: str = NO_LOGIN) -> None:
    """Put passwd and group of ``users`` (name, UID) in ``folder``; readers see the old or the new.

    No fsync: the folder is a tmpfs, and the daemon writes both files again when it starts.
    """
    entries = list(users)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    contents = {
        "passwd": "".join(passwd_line(name, uid, shell) for name, uid in entries),
        "group": "".join(group_line(name, uid) for name, uid in entries),
    }
    for file, content in contents.items():
        files.write(folder / file, content.encode(), durable=False)
