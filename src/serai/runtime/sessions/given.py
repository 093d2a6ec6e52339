"""What the gate gives the programs of a session: variables with placeholders, and certificates."""

from __future__ import annotations

import json

from serai.common.paths import Paths
from serai.runtime.settings import VARIABLE


def environment(paths: Paths, name: str) -> dict[str, str]:
    """The variables that the gate's file of a session names; none where it names none.

    They count for more than those of /etc/serai/session.toml, which were written for all sessions:
    with another SSL_CERT_FILE this one's bound hosts would be unreachable. What the session, or a
    single exec, was given on purpose counts for more than they do.
    """
    try:
        given = json.loads((paths.gate_state / f"{name}.json").read_bytes())["environment"]
        return {
            variable: value
            for variable, value in given.items()
            if VARIABLE.fullmatch(variable) and isinstance(value, str) and "\0" not in value
        }
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError):
        # A payload runs without: what it would have used is refused at the gate, which says why.
        return {}
