"""The gate's private socket, by JSON-RPC: sessiond tells it sessions and policies."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serai.common import jsonrpc_server
from serai.common.errors import SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler, Name, Nothing, Server
from serai.common.tables import setting
from serai.gate import profiles, services
from serai.gate.audit import chain
from serai.gate.audit.verify import verify
from serai.gate.explain import question
from serai.gate.gate import Gate
from serai.gate.secrets import Store
from serai.gate.services import Wish

MAX_LINE = 4 << 20
# Not by an import: the package names the library too, which the gate is not to know.
VERSION = str(sys.modules["serai"].__version__)
# sessiond makes a connection for each question; how many it has is limited by its own clients.
MAX_CLIENTS = 1 << 16
BACKLOG = 4096


@dataclass(frozen=True)
class Open:
    """A session to listen for."""

    name: str
    uid: int
    policy: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """The sessions that there are."""

    names: list[str]


@dataclass(frozen=True)
class Check:
    """A policy."""

    policy: dict[str, Any]


@dataclass(frozen=True)
class Bind:
    """A policy, and a secret to bind in it."""

    policy: dict[str, Any]
    wish: Wish


@dataclass(frozen=True)
class Change:
    """Another policy for a session. ``cut``: end connections it forbids."""

    name: str
    policy: dict[str, Any]
    cut: bool


@dataclass(frozen=True)
class Explain:
    """Where a session with this policy would go."""

    policy: dict[str, Any]
    target: str
    method: str = ""


@dataclass(frozen=True)
class Audit:
    """Entries after number ``after``, at most ``limit``; without ``after`` the last ones."""

    after: int | None
    limit: int
    session: str | None


@dataclass(frozen=True)
class Secret:
    """A secret to keep."""

    name: str
    value: str = setting("", "one line of ASCII", secret=True)


@dataclass(frozen=True)
class Operations:
    """Operations for the audit log: objects without the keys that the log has itself."""

    entries: list[Any]


class Control:
    """The methods. Each raises SeraiError for what is wrong."""

    def __init__(self, gate: Gate, folder: Path, secrets: Store | None = None) -> None:
        """``folder`` has the audit log; without ``secrets`` there can be none."""
        self._gate = gate
        self._folder = folder
        self._secrets = secrets
        self.table: dict[str, tuple[type, Handler]] = {
            "open": (Open, _handler(self.open)),
            "close": (Name, _handler(lambda p: gate.close(p.name))),
            "keep": (Keep, _handler(lambda p: gate.keep(set(p.names)))),
            "check": (Check, _handler(self.check)),
            "bind": (Bind, _handler(self.bind)),
            "bound": (Check, _handler(self.bound)),
            "change": (Change, _handler(self.change)),
            "explain": (Explain, _handler(self.explain)),
            "status": (Nothing, _handler(lambda _: gate.status())),
            "health": (Nothing, _handler(lambda _: self.health())),
            "counts": (Nothing, _handler(lambda _: gate.counts())),
            "note": (Operations, _handler(self.note)),
            "audit": (Audit, _handler(self.audit)),
            "verify": (Nothing, _handler(self.verify)),
            "secret.set": (Secret, _handler(self.set_secret)),
            "secret.list": (Nothing, _handler(self.list_secrets)),
            "secret.remove": (Name, _handler(self.remove_secret)),
        }

    def open(self, p: Open) -> None:
        """Listen for a session."""
        self._gate.open(p.name, p.uid, profiles.policy(p.policy))
        self._gate.label(p.name, p.labels)

    def check(self, p: Check) -> dict[str, Any]:
        """The policy in its canonical form, if it can be used."""
        policy = profiles.policy(p.policy)
        self._gate.check(policy)
        return policy.as_dict()

    def bind(self, p: Bind) -> dict[str, Any]:
        """The policy with a secret that is bound, and whose hosts are allowed."""
        policy = profiles.policy(p.policy)
        new = services.bindings(p.wish)
        policy = services.added(policy, self._gate.check(policy), new)
        self._gate.check(policy)
        return policy.as_dict()

    def bound(self, p: Check) -> dict[str, Any]:
        """All secrets that a policy binds, itself and by its profile, and their hosts."""
        rules = self._gate.check(profiles.policy(p.policy))
        return {"bind": [each.as_dict() for each in rules.bind]}

    def change(self, p: Change) -> dict[str, int]:
        """Give a session another policy."""
        return {"cut": self._gate.change(p.name, profiles.policy(p.policy), cut=p.cut)}

    async def explain(self, p: Explain) -> dict[str, Any]:
        """What would be said to a target."""
        asked = question(p.target, p.method)
        return await self._gate.explain(profiles.policy(p.policy), asked)

    def note(self, p: Operations) -> dict[str, int]:
        """Write what sessiond did, in order; how many were written says whether all were."""
        if not all(isinstance(each, dict) and "event" not in each for each in p.entries):
            raise SeraiError("an entry is an object, and its event is 'operation'")
        return {"noted": self._gate.note(p.entries)}

    def health(self) -> dict[str, str]:
        """What this gate is, and what keeps it from writing the audit log, '' if nothing does."""
        return {"version": VERSION, "audit": self._gate.log_problem()}

    async def audit(self, p: Audit) -> dict[str, Any]:
        """Entries after one, or the last ones."""
        if p.after is None:
            entries = await asyncio.to_thread(chain.tail, self._folder, p.limit, p.session)
        else:
            entries = await asyncio.to_thread(chain.read, self._folder, p.after, p.limit, p.session)
        last = await asyncio.to_thread(chain.last_seq, self._folder)
        return {"entries": entries, "last": last}

    async def verify(self, _p: Nothing) -> dict[str, Any]:
        """Whether the audit log is whole."""
        return dataclasses.asdict(await asyncio.to_thread(verify, self._folder))

    async def set_secret(self, p: Secret) -> None:
        """Keep a secret; requests from now on get it."""
        # In a thread, as whatever waits for a disk.
        await asyncio.to_thread(self._store().set, p.name, p.value)

    async def list_secrets(self, _p: Nothing) -> dict[str, Any]:
        """Every secret, without its value."""
        return {"secrets": self._store().list()}

    async def remove_secret(self, p: Name) -> None:
        """Forget a secret."""
        await asyncio.to_thread(self._store().remove, p.name)

    def _store(self) -> Store:
        if self._secrets is None:
            text = "the gate has no key of this VM to keep secrets with"
            raise SeraiError(text, "'journalctl -u serai-gate' says why")
        return self._secrets


def serve(path: Path, control: Control) -> Server:
    """Listen at ``path``, for root and our own user."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return Server(
        listener, control.table, "the gate", _refusal, most_clients=MAX_CLIENTS, longest=MAX_LINE
    )


def _handler(work: Callable[[Any], Any]) -> Handler:
    async def handler(_c: Connection, _r: Request, params: Any) -> Any:
        try:
            result = work(params)
            return await result if isinstance(result, Awaitable) else result
        except OSError as error:
            raise SeraiError(str(error)) from None

    return handler


def _refusal(sock: socket.socket) -> str:
    _, uid, _ = jsonrpc_server.credentials(sock)
    return "" if uid in (0, os.geteuid()) else "this takes root"
