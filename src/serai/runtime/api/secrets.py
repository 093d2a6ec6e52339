"""The methods about secrets: the gate keeps them, and they only pass through here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serai.common.errors import CONFLICT, SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler, Nothing
from serai.common.tables import setting
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps.gate_client import GateClient


@dataclass(frozen=True)
class SetSecret:
    """A secret to keep, in the place of another of that name."""

    name: str
    value: str = setting("", "one line of ASCII", secret=True)


@dataclass(frozen=True)
class RemoveSecret:
    """A secret to forget. ``force``: also if a session is bound to it, which then is refused."""

    name: str
    force: bool = False


class SecretMethods:
    """What clients can ask for about secrets. No answer, error or log has a value."""

    def __init__(self, sessions: Sessions, gate: GateClient) -> None:
        self._sessions = sessions
        self._gate = gate
        self.table: dict[str, tuple[type, Handler]] = {
            "secret.set": (SetSecret, self.set),
            "secret.list": (Nothing, self.list_all),
            "secret.remove": (RemoveSecret, self.remove),
        }

    async def set(self, _c: Connection, _r: Request, p: SetSecret) -> Any:
        """Have the gate keep a secret; requests from now on get it."""
        await self._gate.call("secret.set", name=p.name, value=p.value)
        return {}

    async def list_all(self, _c: Connection, _r: Request, _p: Nothing) -> Any:
        """Which secrets there are, and when they were set and used."""
        return await self._gate.call("secret.list")

    async def remove(self, _c: Connection, _r: Request, p: RemoveSecret) -> Any:
        """Have the gate forget a secret."""
        bound = [] if p.force else self._bound(p.name)
        if bound:
            text = f"the secret {p.name} is bound by {', '.join(bound)}"
            raise SeraiError(text, "unbind it there, or use --force", CONFLICT)
        await self._gate.call("secret.remove", name=p.name)
        return {}

    def _bound(self, name: str) -> list[str]:
        """The sessions whose own policy binds it; what profiles bind only the gate knows."""
        return [
            record.name
            for record in self._sessions.registry.all()
            if record.state is not State.REMOVING
            and any(each.get("secret") == name for each in record.policy.get("bind", ()))
        ]
