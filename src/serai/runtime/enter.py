"""Start a payload in a running session from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.runtime.errors import SeraiError
from serai.runtime.policy import Limits


class EnterError(SeraiError):
    """A payload did not start. ``stage`` says where it failed, ``errno`` why (0: no errno).

    At the stage ``exec`` a shell would exit with 127 for ENOENT and with 126 otherwise.
    """

    stage: str
    errno: int


@dataclass(frozen=True)
class Target:
    """The session to enter.

    ``pid`` is the VM's PID of the sandbox's PID 1 (the child of the unit's main process),
    ``cgroups`` the unit's folders in the cgroup file system (one with v2; one a hierarchy to join
    with v1; none to stay where the daemon is).
    """

    pid: int
    uid: int
    gid: int
    cgroups: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Entered:
    """A running payload; the caller owns both descriptors and must reap ``pid``.

    ``pid`` is a direct child of the calling process: wait with ``waitid(P_PIDFD, pidfd, WEXITED)``.
    ``pty`` is the terminal's master if one was asked for.
    """

    pid: int
    pidfd: int
    pty: int | None


def load_filters(folder: Path) -> tuple[bytes, ...]:
    """The filters ``baseline`` and ``unix-block`` of ``folder`` (``/usr/lib/serai/seccomp/<arch>``).

    Raises SeraiError if one is missing or damaged: a payload never starts without both.
    """
    raise NotImplementedError


def enter(
    target: Target,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    stdio: tuple[int, int, int] | None,
    *,
    limits: Limits,
    filters: Sequence[bytes],
    tty: bool = False,
    timeout: float = 10.0,
) -> Entered:
    """Run ``argv`` in the session ``target``, as its user, and return once it has been executed.

    ``argv[0]`` without a slash is looked up in ``env["PATH"]`` inside the sandbox. ``cwd`` is a
    path inside. ``stdio`` are the three descriptors for the payload (the caller keeps its own);
    a terminal, a folder, a block device or an O_PATH descriptor among them is refused, and with
    ``tty`` it must be None, because the terminal comes from the sandbox's own devpts.

    Raises EnterError if the payload could not be executed or if that took more than ``timeout``
    seconds (a frozen session, for instance: thaw it first); nothing is left running then.
    """
    raise NotImplementedError
