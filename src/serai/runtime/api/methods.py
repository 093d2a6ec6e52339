"""The methods of the control socket: their parameters, and what they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from serai import __version__
from serai.common.errors import NOT_PERMITTED, OTHER_VERSION, SeraiError
from serai.common.jsonrpc import BYTES, EARLY, PROTOCOL, Request
from serai.common.jsonrpc_server import Connection, Handler, Name, Nothing, Subscribers
from serai.common.labels import DOCTOR
from serai.common.tables import setting, unicode
from serai.runtime.api.egress import EgressMethods
from serai.runtime.api.exec import Exec, Executions, Input, Resize, Signal
from serai.runtime.api.exports import ExportMethods
from serai.runtime.api.files import Transfers
from serai.runtime.api.folders import FolderMethods
from serai.runtime.api.forwards import Forwards
from serai.runtime.api.health import HealthMethods
from serai.runtime.api.jobs import JobMethods
from serai.runtime.api.noting import Noting
from serai.runtime.api.secrets import SecretMethods
from serai.runtime.image import image
from serai.runtime.sandbox import cgroups, usage
from serai.runtime.sessions import changes
from serai.runtime.sessions.collector import Collector
from serai.runtime.sessions.payloads.jobs import Jobs
from serai.runtime.sessions.payloads.payloads import Payloads
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps import quota
from serai.runtime.sessions.steps.gate_client import GateClient

PATIENCE = 1.0
"""Seconds for a gate that does not answer."""
DESCRIPTORS = frozenset(
    {"exec", "put", "get", "ls", "tree.put", "tree.get", "file.batch", "file.watch"}
    | {"export", "import", "backup"}
)
"""The methods whose requests come with descriptors."""


@dataclass(frozen=True)
class Version:
    """``protocol`` is what the client speaks."""

    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Create:
    """A new session; repeated with the same ``request_id`` it is the same one."""

    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str | None = setting(None, "the same again: the same session", parse=unicode)
    profile: str | None = None
    limits: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    sandbox: str | None = setting(None, "strict or sockets; null: the VM's default")


@dataclass(frozen=True)
class SetOwn:
    """What to change of a session; what is null it has of its own no longer."""

    name: str
    labels: dict[str, str | None] = field(default_factory=dict)
    limits: dict[str, str | None] = field(default_factory=dict)
    env: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class List:
    """Which sessions: those that have all these labels."""

    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Switch:
    """``keep_running``: do not freeze the session that was active before."""

    name: str
    keep_running: bool = False


@dataclass(frozen=True)
class Collect:
    """What to archive and to remove; null: no such rule."""

    keep_days: float | None = setting(30.0, "days", minimum=0)
    keep_free: float | None = setting(None, "percent of the disk", minimum=0, maximum=100)
    dry_run: bool = False


class Methods:
    """What clients can ask for."""

    def __init__(
        self,
        sessions: Sessions,
        payloads: Payloads,
        gate: GateClient,
        collector: Collector,
        subscribers: Subscribers,
    ) -> None:
        self._sessions = sessions
        self._gate = gate
        self._collector = collector
        self._subscribers = subscribers
        self._forwards = Forwards(sessions)
        executions = Executions(sessions, payloads)
        transfers = Transfers(sessions, payloads, executions)
        self._noting = Noting(sessions)
        methods: dict[str, tuple[type, Handler]] = {
            "version": (Version, self.version),
            "create": (Create, self.create),
            "set": (SetOwn, self.set),
            "list": (List, self.list_all),
            "show": (Name, self.show),
            "switch": (Switch, self.switch),
            "stop": (Name, self.stop),
            "archive": (Name, self.archive),
            "reopen": (Name, self.reopen),
            "remove": (Name, self.remove),
            "gc": (Collect, self.collect),
            "pool": (Nothing, self.pool),
            "subscribe": (Nothing, self.subscribe),
            "exec": (Exec, executions.exec),
            "exec.signal": (Signal, executions.signal),
            "exec.input": (Input, executions.input),
            "exec.resize": (Resize, executions.resize),
            **JobMethods(Jobs(sessions, payloads)).table,
            **transfers.table,
            **ExportMethods(sessions, transfers, self._noting, self._shown).table,
            **self._forwards.table,
            **FolderMethods(sessions, self._shown).table,
            **EgressMethods(sessions, gate).table,
            **HealthMethods(sessions, gate).table,
            **SecretMethods(sessions, gate).table,
        }
        self.table = self._noting.table(methods)

    async def version(self, _c: Connection, _r: Request, p: Version) -> Any:
        """What this Serai is and can do. A client that cannot speak with it is told so."""
        if p.protocol != PROTOCOL:
            raise SeraiError(
                f"this client speaks protocol {p.protocol}, and the VM's Serai {__version__}"
                f" protocol {PROTOCOL}",
                "upgrade the older one",
                OTHER_VERSION,
            )
        return {
            "version": __version__,
            "protocol": PROTOCOL,
            "image": image(),
            "capabilities": sorted([*self.table, BYTES, EARLY]),
        }

    async def create(self, c: Connection, _r: Request, p: Create) -> Any:
        """Make a session and start it."""
        _check_doctor(c, p.labels)
        own = changes.new(self._sessions, p.labels, p.limits, p.env, p.sandbox)
        asked = (p.name, p.labels, p.request_id, p.profile)
        noted = self._noting.created(c, p)
        return self._shown(await self._sessions.create(*asked, own=own, noted=noted))

    async def set(self, c: Connection, _r: Request, p: SetOwn) -> Any:
        """Change labels, limits and variables of a session; limits count at once."""
        _check_doctor(c, p.labels)
        done = await changes.change(self._sessions, p.name, p.labels, p.limits, p.env)
        return self._shown(done)

    async def list_all(self, _c: Connection, _r: Request, p: List) -> Any:
        """Every session that has the labels."""
        wanted = p.labels.items()
        found = [each for each in self._sessions.registry.all() if wanted <= each.labels.items()]
        return {"sessions": [self._shown(record) for record in found]}

    async def show(self, _c: Connection, _r: Request, p: Name) -> Any:
        """One session, and what it uses if it runs."""
        record = self._sessions.registry.get(p.name)
        running = self._sessions.running(record)
        used = running and running.cgroup and usage.used(running.cgroup)
        sent = await self._sent(record.name) if used else {}
        return {**self._shown(record), "usage": {**used, **sent} if used else None}

    async def switch(self, _c: Connection, _r: Request, p: Switch) -> Any:
        """Make a session the active one."""
        return self._shown(await self._sessions.switch(p.name, keep_running=p.keep_running))

    async def stop(self, _c: Connection, _r: Request, p: Name) -> Any:
        """End everything in a session."""
        return self._shown(await self._sessions.stop(p.name))

    async def archive(self, _c: Connection, _r: Request, p: Name) -> Any:
        """Stop a session and lock its home away."""
        return self._shown(await self._sessions.archive(p.name))

    async def reopen(self, _c: Connection, _r: Request, p: Name) -> Any:
        """Bring a session back from archived, stopped or frozen."""
        return self._shown(await self._sessions.reopen(p.name))

    async def remove(self, _c: Connection, _r: Request, p: Name) -> Any:
        """End a session for good; its data is deleted in the background."""
        return self._shown(await self._sessions.remove(p.name))

    async def subscribe(self, c: Connection, _r: Request, _p: Nothing) -> Any:
        """From now on send the events of sessions and of the disk to this connection."""
        self._subscribers.add(c)
        return {}

    async def collect(self, _c: Connection, _r: Request, p: Collect) -> Any:
        """Archive and remove what is not used."""
        done = await self._collector.collect(p.keep_days, p.keep_free, dry_run=p.dry_run)
        keys = ("name", "goal", "reason")
        return {"actions": [{key: getattr(action, key) for key in keys} for action in done]}

    async def pool(self, _c: Connection, _r: Request, _p: Nothing) -> Any:
        """How many sessions wait for a create, and how many are to."""
        return self._sessions.pool.shown()

    async def _sent(self, name: str) -> dict[str, int | None]:
        """Bytes through the gate; null if it does not say. That keeps nobody waiting long."""
        with contextlib.suppress(SeraiError, asyncio.TimeoutError):
            found = await asyncio.wait_for(self._gate.call("counts"), PATIENCE)
            return {key: found.get(name, {}).get(key) for key in ("sent", "received")}
        return {"sent": None, "received": None}

    def _shown(self, record: Record) -> dict[str, Any]:
        running = self._sessions.running(record)
        cgroup = running.cgroup if running else None
        used = quota.usage(self._sessions.paths.sessions, record.uid)
        return {
            **shown(record),
            "home": str(self._sessions.paths.home(record.name)),
            "folders": self._sessions.folders.shown(record, running),
            "forwards": self._forwards.shown(record.uid),
            "quota": used and vars(used),
            "reason": self._sessions.reasons.get(record.uid),
            "out_of_memory": cgroups.out_of_memory(cgroup) if cgroup else 0,
            "sandbox": record.own.sandbox,
            "refused": running.hearing.refused.told() if running else [],
            "limits": dict(record.own.limits),
            "env": dict(record.own.env),
            "ends_at": record.ends_at,
        }


def _check_doctor(c: Connection, labels: Collection[str]) -> None:
    """Raise SeraiError for a session that would be counted nowhere, unless root wants it."""
    if DOCTOR in labels and c.uid != 0:
        text = f"the label {DOCTOR} is for the sessions of 'serai doctor', which root runs"
        raise SeraiError(text, "choose another label", NOT_PERMITTED)


def shown(record: Record) -> dict[str, Any]:
    """A session as clients see it; times in seconds since the epoch."""
    return {
        "name": record.name,
        "uid": record.uid,
        "state": record.state.value,
        "goal": record.goal.value if record.goal else None,
        "labels": dict(record.labels),
        "created_at": record.created_at,
        "changed_at": record.changed_at,
        "used_at": record.used_at,
    }
