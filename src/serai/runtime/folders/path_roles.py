"""Path roles: what each folder of a session is for. Data."""

from __future__ import annotations

from dataclasses import dataclass

from serai.common.errors import INVALID_PARAMS, SeraiError


@dataclass(frozen=True)
class Role:
    """A folder of a session.

    ``folder`` is relative to the home, '' being the home itself. A folder of the VM can be attached
    to it if it is ``attachable``, read-write by default if it is ``writable``, and in the place of
    another one if it is ``changeable``. ``purpose`` is told to the agent.
    """

    folder: str
    purpose: str
    writable: bool = True
    attachable: bool = True
    changeable: bool = True


ROLES = {
    "home": Role("", "the session's own home; the person does not see it", attachable=False),
    "workdir": Role(
        "mnt/workdir", "the person's working directory; the task is about it", changeable=False
    ),
    "outputs": Role("mnt/outputs", "finished work for the person goes here"),
    "uploads": Role("mnt/uploads", "files that the person gave; only to be read", writable=False),
    "skills": Role(
        "mnt/.skills/skills", "instructions and tools for kinds of tasks", writable=False
    ),
    "config": Role("mnt/.claude", "the agent's settings and memory"),
    "tmp": Role("tmp", "scratch space; nothing here is kept for the person", attachable=False),
}


def find(name: str) -> Role:
    """The role of that name. Raises SeraiError if there is none."""
    if name not in ROLES:
        known = ", ".join(ROLES)
        raise SeraiError(f"there is no role {name!a}"[:100], f"roles: {known}", INVALID_PARAMS)
    return ROLES[name]


def attachable(name: str) -> Role:
    """The same, but a role to which a folder can be attached."""
    role = find(name)
    if not role.attachable:
        known = ", ".join(each for each, it in ROLES.items() if it.attachable)
        raise SeraiError(
            f"no directory can be attached as {name}", f"roles: {known}", INVALID_PARAMS
        )
    return role
