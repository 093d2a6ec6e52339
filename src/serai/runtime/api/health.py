"""The method ``health``: collects what can be had at once, and has it judged.

It makes nothing and starts nothing. The only one that is waited for is the gate, and not for long:
who asks wants to know that it hangs, and has a deadline of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from serai import __version__
from serai.common import linux
from serai.common.errors import UNKNOWN_METHOD, SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler, Nothing
from serai.runtime.image import image
from serai.runtime.sessions import health
from serai.runtime.sessions.health import Sign
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps.gate_client import GateClient

PATIENCE = 1.0
"""Seconds for the gate."""
MEMINFO = Path("/proc/meminfo")


class HealthMethods:
    """What a load balancer and an operator ask again and again."""

    def __init__(self, sessions: Sessions, gate: GateClient) -> None:
        self._sessions = sessions
        self._gate = gate
        self._image = image()
        self.table: dict[str, tuple[type, Handler]] = {"health": (Nothing, self.health)}

    async def health(self, _c: Connection, _r: Request, _p: Nothing) -> Any:
        """Every sign, and what they come to."""

        def sessions() -> Sign:
            return health.sessiond(list(self._sessions.registry.all()), time.time())

        signs = [self._sign("sessiond", sessions), *await self._of_gate()]
        paths, rules = self._sessions.paths, self._sessions.settings.disk
        looks: dict[str, Callable[[], Sign]] = {
            "disk": lambda: health.disk(paths.sessions, rules),
            "root": partial(health.room, "root", paths.root),
            "run": partial(health.room, "run", paths.run),
            "memory": lambda: health.memory(MEMINFO.read_text()),
            "clock": lambda: health.clock(time.time(), linux.clock_synchronised()),
            "pool": lambda: health.pool(self._sessions.pool.shown()),
        }
        signs += [self._sign(name, look) for name, look in looks.items()]
        return {
            "status": health.worst(signs),
            "version": __version__,
            "image": self._image,
            "checks": [vars(each) for each in signs],
        }

    @staticmethod
    def _sign(name: str, look: Callable[[], Sign]) -> Sign:
        """What cannot be looked at is not well."""
        try:
            return look()
        except (OSError, sqlite3.Error, SeraiError) as error:
            return Sign(name, health.UNHEALTHY, str(error))

    async def _of_gate(self) -> list[Sign]:
        files = health.installed(self._sessions.paths)
        problem, version, audit = "", None, None
        try:
            said = await asyncio.wait_for(self._gate.call("health"), PATIENCE)
            version, audit = str(said["version"]), str(said["audit"])
        except asyncio.TimeoutError:
            problem = f"it does not answer within {PATIENCE:g} s"
        except SeraiError as error:
            # One of before an upgrade, which is not restarted yet, answers that it does not know.
            problem = "" if error.code == UNKNOWN_METHOD else error.message
            version = "" if error.code == UNKNOWN_METHOD else None
        except (KeyError, TypeError) as error:
            problem = f"what it answers is no answer: {error!r}"
        signs = [health.gate(problem), health.versions(__version__, version, files)]
        return signs if problem else [*signs, health.audit(audit)]
