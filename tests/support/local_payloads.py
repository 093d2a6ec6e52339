"""A VM whose payloads are this machine's own processes: exec and what belongs to it, no session."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from serai.common import files, jsonrpc, wait
from serai.common.jsonrpc_server import Connection, Name, Server
from serai.runtime.api.exec import Exec, Executions, Input, Resize, Signal
from serai.runtime.api.methods import Version
from serai.runtime.sandbox.enter import Entered
from serai.runtime.sessions.payloads.payloads import Ended, Payload, Payloads
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps.uses import Uses


class Local:
    """Takes the place of Payloads."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, name: str, argv: list[str], **words: Any) -> Payload:
        """Run it here."""
        child = subprocess.Popen(
            argv, **dict(zip(("stdin", "stdout", "stderr"), words["stdio"], strict=True))
        )
        self.running[str(child.pid)] = child
        entered = Entered(child.pid, os.pidfd_open(child.pid), None)
        return Payload(str(child.pid), name, entered, None, False)

    async def finish(self, payload: Payload, _timeout: object, gone: asyncio.Future[None]) -> Ended:
        """Wait for its end, or its client's."""
        ended = asyncio.ensure_future(wait.readable(payload.entered.pidfd))
        await asyncio.wait({ended, gone}, return_when="FIRST_COMPLETED")
        child = self.running[payload.id]
        child.kill()
        await ended
        status = child.wait()
        del self.running[payload.id]
        os.close(payload.entered.pidfd)
        return Ended(status if status >= 0 else 128 - status, -status if status < 0 else None)

    def send(self, payload: Payload, number: signal.Signals) -> None:
        """Send it a signal."""
        self.running[payload.id].send_signal(number)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Local]]:
    """Its address, and its payloads."""
    local, loop, path = Local(), asyncio.new_event_loop(), folder / "vm.sock"
    sessions = cast(Sessions, SimpleNamespace(uses=Uses()))
    executions = Executions(sessions, cast(Payloads, local))

    async def version(*_: object) -> Any:
        found = {"version": "1", "protocol": jsonrpc.PROTOCOL}
        return {**found, "capabilities": [jsonrpc.BYTES]}

    async def never_answered(client: Connection, *_: object) -> Any:
        await client.gone

    async def serve() -> Server:
        table = {
            "version": (Version, version),
            "show": (Name, never_answered),
            "exec": (Exec, executions.exec),
            "exec.input": (Input, executions.input),
            "exec.signal": (Signal, executions.signal),
            "exec.resize": (Resize, executions.resize),
        }
        return Server(files.listening(path, 10), cast(Any, table), "the VM", lambda _: "")

    server = loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"unix://{path}", local
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
