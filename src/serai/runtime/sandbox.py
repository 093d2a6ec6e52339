"""A session's sandbox as bubblewrap arguments and an environment: pure functions of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.runtime.policy import Policy


@dataclass(frozen=True)
class Session:
    """What the sandbox needs to know of one session.

    ``state`` is the folder with the files that the daemon writes for it (the VM's
    ``/run/serai/sessions/<name>``: ``hosts`` and ``users/{passwd,group}``), ``gate`` the one with
    the gate's two sockets (``/run/serai/gate/<name>``). ``home`` appears at the same path inside.
    """

    name: str
    uid: int
    gid: int
    home: Path
    state: Path
    gate: Path


def arguments(policy: Policy, session: Session) -> list[str]:
    """bubblewrap's arguments for ``session``, the bridge's command included, ``bwrap`` excluded.

    Only options that bubblewrap 0.6.1 knows. Seccomp filters are not among them: the unit passes
    ``--seccomp FD`` itself, since a descriptor's number is the caller's business.
    """
    raise NotImplementedError


def environment(policy: Policy, session: Session) -> dict[str, str]:
    """The whole environment of a payload; nothing of the daemon's own is in it."""
    raise NotImplementedError


def encode(args: Sequence[str]) -> bytes:
    """``args`` as ``bwrap --args FD`` reads them: each ends with NUL. ValueError if one has a NUL."""
    raise NotImplementedError


def hosts(policy: Policy) -> str:
    """The text of ``<state>/hosts``, which a session sees as its /etc/hosts."""
    raise NotImplementedError
