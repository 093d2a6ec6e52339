"""How sessiond speaks to the gate: JSON-RPC over its private socket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import GONE, SeraiError
from serai.runtime.sessions.registry import Record

DEADLINE = 10.0
"""Seconds to wait for a gate that is being started again."""
_MOST = 4 << 20
_PAUSE = 0.02


class GateClient:
    """The gate behind a socket; whatever is asked of it may be asked twice."""

    def __init__(self, control: Path) -> None:
        self._control = control

    async def call(self, method: str, /, **params: Any) -> Any:
        """The gate's answer. Raises SeraiError with what it says, or if there is no gate."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return await jsonrpc.ask(self._control, method, params, _MOST)
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
                # Whoever has taken it over: what takes away is done all the same.
                raise SeraiError(
                    f"what the gate answers is no answer: {error!r}", "see serai-gate.service", GONE
                ) from None
            except (OSError, EOFError) as error:
                if time.monotonic() > end:
                    raise SeraiError(
                        f"the gate does not answer: {error}", "see serai-gate.service", GONE
                    ) from None
                await asyncio.sleep(_PAUSE)

    async def open(self, session: Record) -> None:
        """Have a session's sockets listened on, by its policy. Raises SeraiError."""
        policy, labels = dict(session.policy), dict(session.labels)
        await self.call("open", name=session.name, uid=session.uid, policy=policy, labels=labels)
