"""The methods for sessions that leave, and that come: exports, and moves from VM to VM."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from serai import __version__
from serai.common.errors import CONFLICT, SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler, Name
from serai.common.tables import setting
from serai.runtime.api.files import Transfers, check_given, close
from serai.runtime.api.noting import Noting
from serai.runtime.folders import transfer
from serai.runtime.folders.exports import form
from serai.runtime.sessions.moves.arrivals import describe
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State

STDIO = setting(
    "stream",
    "fds: one descriptor comes with the message. bytes: as stream, output not in base64",
    choices=("fds", "stream", "bytes"),
)
TOKEN = re.compile(r"[0-9a-z-]{1,64}")
MOST_ADDRESS = 1000
NOBODY = 65534
"""As whom the registry is read: any user whose rights are not needed."""


def token(text: str) -> str:
    """One of a move. Raises ValueError."""
    if not TOKEN.fullmatch(text):
        raise ValueError("this is no token of a move")
    return text


def address(text: str) -> str:
    """One of a VM, for people. Raises ValueError."""
    if not text.isprintable() or not text.isascii() or not 0 < len(text) <= MOST_ADDRESS:
        raise ValueError("this is no address of a VM")
    return text


@dataclass(frozen=True)
class Export:
    """The session that is exported; with the ``token`` of a move it is one that leaves."""

    name: str
    token: str | None = None
    stdio: str = STDIO


@dataclass(frozen=True)
class Import:
    """``name`` is another one than the export's. With the ``token`` of a move it waits.

    With ``bindings`` it may use secrets of this VM, as the export's policy and its profile say.
    """

    name: str | None = None
    token: str | None = field(default=None, metadata={"parse": token})
    bindings: bool = False
    stdio: str = STDIO


@dataclass(frozen=True)
class Check:
    """What ``export.describe`` says of a ``session``, and how it would be imported."""

    session: dict[str, Any]
    name: str | None = None
    bindings: bool = False


@dataclass(frozen=True)
class Backup:
    """Where its bytes go."""

    stdio: str = STDIO


@dataclass(frozen=True)
class BeginMove:
    """``to`` is the target's address, as a person gave it."""

    name: str
    to: str = field(metadata={"parse": address})


@dataclass(frozen=True)
class Token:
    """The move that is meant."""

    token: str = field(metadata={"parse": token})


@dataclass(frozen=True)
class EndMove:
    """``moved``: the target has it for good. Else it comes back."""

    name: str
    token: str = field(metadata={"parse": token})
    moved: bool


class ExportMethods:
    """What clients can ask for about them."""

    def __init__(
        self, sessions: Sessions, transfers: Transfers, noting: Noting, shown: Any
    ) -> None:
        self._sessions = sessions
        self._transfers = transfers
        self._noting = noting
        self._shown = shown
        self.table: dict[str, tuple[type, Handler]] = {
            "export": (Export, self.export),
            "export.describe": (Name, self.describe),
            "import": (Import, self.import_),
            "import.check": (Check, self.check),
            "backup": (Backup, self.backup),
            "move.begin": (BeginMove, self.begin),
            "move.show": (Name, self.show),
            "move.status": (Token, self.status),
            "move.commit": (Token, self.commit),
            "move.cancel": (Token, self.cancel),
            "move.end": (EndMove, self.end),
        }

    async def export(self, c: Connection, r: Request, p: Export) -> Any:
        """Write a session as an archive; one that runs is frozen meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                check_given(p.stdio, r.descriptors)
                record = await stack.enter_async_context(self._sessions.still(p.name))
                self._check_token(record, p.token)
                plan, told = self._plan(record), self._told(record)
                stack.callback(os.close, told)
                noting = self._noting.noted(c, "export", record, token=p.token)
                await stack.enter_async_context(noting)
            except BaseException:
                close(r.descriptors)
                raise
            await self._transfers.carry(c, r, p.stdio, plan, record.name, told)
        return {}

    async def describe(self, _c: Connection, _r: Request, p: Name) -> Any:
        """What an export would say of a session."""
        return describe(self._sessions.registry.get(p.name))

    async def check(self, _c: Connection, _r: Request, p: Check) -> Any:
        """Refuse what an import would refuse, but for its size."""
        await self._sessions.arrivals.check(p.session, p.name, bindings=p.bindings)
        return {}

    async def import_(self, c: Connection, r: Request, p: Import) -> Any:
        """Make a session of an export, whole or not at all; it is stopped."""
        taken = False
        paths = self._sessions.paths

        async def unpack(record: Record) -> None:
            nonlocal taken
            taken = True
            reserve = self._sessions.settings.disk.reserve
            home = (str(paths.arriving), str(record.uid), record.uid, "")
            plan = transfer.Plan("import", "", *home, reserve=reserve)
            await self._transfers.carry(c, r, p.stdio, plan, record.name)

        async def noted(record: Record) -> None:
            more = {"profile": record.policy.get("profile"), "token": p.token}
            async with self._noting.noted(c, "import", record, **more):
                pass

        try:
            check_given(p.stdio, r.descriptors)
            record = await self._sessions.arrivals.take(
                p.name, p.token, unpack, noted, bindings=p.bindings
            )
        finally:
            if not taken:
                close(r.descriptors)
        return self._shown(record)

    async def backup(self, c: Connection, r: Request, p: Backup) -> Any:
        """Write the registry and the audit log as an archive; sessions have exports."""
        paths = self._sessions.paths
        copy = paths.state / f"backup-{os.urandom(8).hex()}.sqlite"
        try:
            try:
                check_given(p.stdio, r.descriptors)
                async with self._noting.noted_of_all(c, "backup"):
                    self._sessions.registry.copy(copy)
            except BaseException:
                close(r.descriptors)
                raise
            kept = paths.state / "audit"  # the gate sees it elsewhere
            audit = kept if kept.is_dir() else paths.audit
            plan = transfer.Plan("backup", str(copy), "", "", NOBODY, str(audit))
            await self._transfers.carry(c, r, p.stdio, plan, "backup")
        finally:
            copy.unlink(missing_ok=True)
        return {}

    async def begin(self, c: Connection, _r: Request, p: BeginMove) -> Any:
        """Stop a session, which from now on can only leave; the same again: the same move."""

        async def noted(record: Record, token: str) -> None:
            async with self._noting.noted(c, "move.begin", record, to=p.to, token=token):
                pass

        found = asdict(await self._sessions.departures.begin(p.name, p.to, noted))
        await self._transfers.end_writes(p.name)  # what is confirmed from now on would be lost
        return {key: found[key] for key in ("token", "stage", "was")}

    async def show(self, _c: Connection, _r: Request, p: Name) -> Any:
        """With which move a session is leaving."""
        found = asdict(self._sessions.departures.leaving(p.name))
        return {key: found[key] for key in ("token", "stage", "was", "peer")}

    async def status(self, _c: Connection, _r: Request, p: Token) -> Any:
        """How far a move to this VM is."""
        return self._sessions.arrivals.status(p.token)

    async def commit(self, c: Connection, _r: Request, p: Token) -> Any:
        """Have a session that has arrived for good."""
        async with self._noted(c, "move.commit", self._sessions.arrivals.record(p.token), p.token):
            return self._shown(await self._sessions.arrivals.commit(p.token))

    async def cancel(self, c: Connection, _r: Request, p: Token) -> Any:
        """Never take a session with that token."""
        async with self._noted(c, "move.cancel", self._sessions.arrivals.record(p.token), p.token):
            await self._sessions.arrivals.cancel(p.token)
        return {}

    async def end(self, c: Connection, _r: Request, p: EndMove) -> Any:
        """Remove a session that has left, or have it back."""
        record = self._sessions.departures.record(p.token)
        async with self._noted(c, "move.end", record, p.token, moved=p.moved):
            await self._sessions.departures.end(p.name, p.token, moved=p.moved)
        return {}

    @contextlib.asynccontextmanager
    async def _noted(
        self, c: Connection, operation: str, record: Record | None, token: str, **more: Any
    ) -> AsyncIterator[None]:
        """Nothing is noted of a session that is not there: nothing can come of it."""
        if record is None:
            yield
            return
        async with self._noting.noted(c, operation, record, token=token, **more):
            yield

    def _check_token(self, record: Record, token: str | None) -> None:
        if record.state is State.MOVING or token is not None:
            leaving = self._sessions.departures.leaving(record.name)
            if record.state is not State.MOVING or leaving.token != token:
                raise SeraiError(
                    f"session {record.name} is not being moved under this token", code=CONFLICT
                )

    def _plan(self, record: Record) -> transfer.Plan:
        paths = self._sessions.paths
        home = (str(paths.sessions), record.name, record.uid, "")
        return transfer.Plan("export", "", *home, jobs=str(paths.jobs / str(record.uid)))

    def _told(self, record: Record) -> int:
        first = {"format": form.FORMAT, "serai": __version__, "session": describe(record)}
        told = os.memfd_create("export")
        os.write(told, json.dumps(first).encode())
        os.lseek(told, 0, os.SEEK_SET)
        return told
