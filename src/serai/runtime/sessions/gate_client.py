"""How sessiond speaks to the gate: one JSON message a line over its private socket."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from serai.runtime.errors import GONE, SeraiError
from serai.runtime.sessions.registry import Record

DEADLINE = 10.0
_MOST = 4 << 20
_PAUSE = 0.02


class Gate:
    """The gate behind a socket; whatever is asked of it may be asked twice."""

    def __init__(self, control: Path, deadline: float = DEADLINE) -> None:
        """``deadline``: how many seconds to wait for a gate that is being started again."""
        self._control = control
        self._deadline = deadline

    async def call(self, method: str, **params: Any) -> Any:
        """The gate's answer. Raises SeraiError with what it says, or if there is no gate."""
        end = time.monotonic() + self._deadline
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        while True:
            try:
                answer = await self._ask(json.dumps(message).encode() + b"\n")
                break
            except (OSError, EOFError) as error:
                if time.monotonic() > end:
                    raise SeraiError(
                        f"the gate does not answer: {error}", "see serai-gate.service", GONE
                    ) from None
                await asyncio.sleep(_PAUSE)
        if "error" in answer:
            raise SeraiError(answer["error"]["message"], answer["error"]["hint"])
        return answer["result"]

    async def open(self, session: Record) -> None:
        """Have a session's sockets listened on, by its policy. Raises SeraiError."""
        await self.call("open", name=session.name, uid=session.uid, policy=dict(session.policy))

    async def _ask(self, line: bytes) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self._control, limit=_MOST)
        try:
            writer.write(line)
            answer = await reader.readline()
        finally:
            writer.close()
        if not answer.endswith(b"\n"):
            raise EOFError("it hung up")
        found: dict[str, Any] = json.loads(answer)
        return found
