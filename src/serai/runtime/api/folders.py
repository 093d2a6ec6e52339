"""The methods of the control socket for folders: attach, detach, hints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler
from serai.common.tables import setting
from serai.runtime.folders import hints, path_roles, shares
from serai.runtime.folders.attachments import Attachment
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions


@dataclass(frozen=True)
class Attach:
    """``path`` is absolute. ``writable`` null: as is usual for the role. ``kind``: auto, idmap or
    bindfs."""

    name: str
    role: str
    path: str
    writable: bool | None = None
    host_path: str = ""
    kind: str = "auto"


@dataclass(frozen=True)
class Detach:
    """Which path role's directory."""

    name: str
    role: str


@dataclass(frozen=True)
class Hints:
    """Which session's."""

    name: str
    format: str = setting("json", "for a program or an agent", choices=("json", "prompt"))


class FolderMethods:
    """What clients can ask for about folders; ``show`` gives a session as they see it."""

    def __init__(self, sessions: Sessions, show: Callable[[Record], dict[str, Any]]) -> None:
        self._sessions = sessions
        self._show = show
        self.table: dict[str, tuple[type, Handler]] = {
            "attach": (Attach, self.attach),
            "detach": (Detach, self.detach),
            "hints": (Hints, self.hints),
        }

    async def attach(self, _c: Connection, _r: Request, p: Attach) -> Any:
        """Attach a folder of the VM to a session."""
        writable = path_roles.find(p.role).writable if p.writable is None else p.writable
        paths = self._sessions.paths
        host = p.host_path or shares.host_path(p.path, shares.load(paths.shares), paths.host)
        new = Attachment(p.role, p.path, writable, host, p.kind)
        return self._show(await self._sessions.attach(p.name, new))

    async def detach(self, _c: Connection, _r: Request, p: Detach) -> Any:
        """Take a folder away from a session."""
        return self._show(await self._sessions.detach(p.name, p.role))

    async def hints(self, _c: Connection, _r: Request, p: Hints) -> Any:
        """Where a session's folders are, for an agent."""
        record = self._sessions.registry.get(p.name)
        found = self._sessions.folders.hints(record, self._sessions.running(record))
        if p.format == "json":
            return found
        own = self._sessions.paths.hints
        return {"prompt": hints.prompt(found, own if own.exists() else hints.TEMPLATE)}
