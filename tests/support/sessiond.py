"""sessiond for a test: ``sessiond.py ROOT [N [CODE]]`` serves below ROOT and dies at fault N.

CODE is run before: it weakens the daemon in one point, for a test that wants to see that found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.api.server import serve
from serai.runtime.sessions.steps import publish
from tests.support.fake_systemd import StandIn

publish.BRIDGE_GROUP = "daemon"  # a build host has no group of ours


class Faults:
    """Counts the points at which the daemon could die, and dies at one of them."""

    def __init__(self, root: Path, fatal: int) -> None:
        self._log = root / "faults"
        self._left = fatal

    def __call__(self, point: str) -> None:
        with self._log.open("a") as log:
            log.write(point + "\n")
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: Path, fatal: int) -> int:
    """Serve; with ``fatal`` 0 nothing is fatal."""
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(serve(Paths(root), StandIn(root), Faults(root, fatal)))
    except SeraiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    exec(sys.argv[3] if sys.argv[3:] else "")  # noqa: S102  # a test's own
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0))
