"""The gate's private socket: sessiond tells it sessions and policies, one JSON message a line.

A message is JSON-RPC 2.0's request without batches; the answers' errors are a text and a hint.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.gate import hosts, profiles
from serai.gate.audit import writer
from serai.gate.gate import Gate

log = logging.getLogger("serai.gate")
MAX_LINE = 4 << 20
MAX_ENTRIES = 1000
Method = Callable[[Mapping[str, Any]], Any]


class Control:
    """The methods; each takes the message's ``params``. Raises SeraiError for what is wrong."""

    def __init__(self, gate: Gate, folder: Path) -> None:
        self._gate = gate
        self._folder = folder
        self.methods: dict[str, Method] = {
            "open": self.open,
            "close": lambda params: gate.close(params["name"]),
            "keep": lambda params: gate.keep(set(params["names"])),
            "check": self.check,
            "change": self.change,
            "explain": self.explain,
            "status": lambda _params: gate.status(),
            "audit": self.audit,
            "verify": self.verify,
        }

    def open(self, params: Mapping[str, Any]) -> None:
        """Listen for a session."""
        self._gate.open(params["name"], params["uid"], profiles.policy(params["policy"]))

    def check(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The policy in its canonical form, if it can be used."""
        policy = profiles.policy(params["policy"])
        self._gate.check(policy)
        return policy.as_dict()

    def change(self, params: Mapping[str, Any]) -> dict[str, int]:
        """Give a session another policy."""
        policy = profiles.policy(params["policy"])
        return {"cut": self._gate.change(params["name"], policy, cut=params["cut"])}

    async def explain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What would be said to a target."""
        try:
            target = hosts.target(params["target"], 443)
        except hosts.BadHost as error:
            raise SeraiError(str(error)) from None
        return await self._gate.explain(profiles.policy(params["policy"]), target)

    async def audit(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Entries after one, or the last ones."""
        limit = min(params["limit"], MAX_ENTRIES)
        after, session = params["after"], params["session"]
        if after is None:
            entries = await asyncio.to_thread(writer.tail, self._folder, limit, session)
        else:
            entries = await asyncio.to_thread(writer.read, self._folder, after, limit, session)
        last = await asyncio.to_thread(writer.last_seq, self._folder)
        return {"entries": entries, "last": last}

    async def verify(self, _params: Mapping[str, Any]) -> dict[str, Any]:
        """Whether the audit log is whole."""
        return dataclasses.asdict(await asyncio.to_thread(writer.verify, self._folder))


async def serve(path: Path, control: Control) -> asyncio.AbstractServer:
    """Listen at ``path``, for root and our own user."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            if _permitted(writer.get_extra_info("socket")):
                while line := await reader.readline():
                    writer.write(json.dumps(await answer(control, line)).encode() + b"\n")
                    await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(client, path, limit=MAX_LINE)
    path.chmod(0o600)
    return server


async def answer(control: Control, line: bytes) -> dict[str, Any]:
    """What one message is answered."""
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": None}
    try:
        message = json.loads(line)
        reply["id"] = message["id"]
        result = control.methods[message["method"]](message["params"])
        if isinstance(result, Awaitable):
            result = await result
        return {**reply, "result": result}
    except SeraiError as error:
        text, hint = error.message, error.hint
    except OSError as error:
        text, hint = str(error), ""
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text, hint = f"the gate does not understand sessiond: {error!r}", ""
    except Exception:
        log.exception("sessiond's request failed")
        text, hint = "the gate failed", "see serai-gate.service"
    return {**reply, "error": {"message": text, "hint": hint}}


def _permitted(sock: socket.socket) -> bool:
    """Whether the peer is root or ourselves: unix(7), SO_PEERCRED."""
    size = struct.calcsize("iII")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("iII", raw)
    return uid in (0, os.geteuid())
