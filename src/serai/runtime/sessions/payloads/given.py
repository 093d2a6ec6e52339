"""What the gate gives the programs of a session: variables with placeholders, and certificates."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from serai.common.paths import Paths
from serai.runtime.settings import VARIABLE

MOST = 4 << 20
"""Bytes of a session's file: its policy is in it, too."""


def environment(paths: Paths, name: str) -> dict[str, str]:
    """The variables that the gate's file of a session names; none where it names none.

    They count for more than those of /etc/serai/session.toml, which were written for all sessions:
    with another SSL_CERT_FILE this one's bound hosts would be unreachable. What the session, or a
    single exec, was given on purpose counts for more than they do.
    """
    try:
        given = json.loads(_read(paths.gate_state / f"{name}.json"))["environment"]
        return {
            variable: value
            for variable, value in given.items()
            if VARIABLE.fullmatch(variable) and isinstance(value, str) and "\0" not in value
        }
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError):
        # A payload runs without: what it would have used is refused at the gate, which says why.
        return {}


def _read(path: Path) -> bytes:
    """The folder is the gate's: whoever has taken the gate over is not to hold up sessiond by a
    pipe, fill its memory, or have it read another file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        known = os.fstat(descriptor)
        if not stat.S_ISREG(known.st_mode) or known.st_size > MOST:
            raise OSError(f"{path} is no file of the gate's")
        return file.read(MOST)
