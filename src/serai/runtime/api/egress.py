"""The methods about what sessions may reach, and what they reached; the gate decides and writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serai.common.errors import GONE, NOT_FOUND, SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler, Name, Nothing
from serai.common.labels import DOCTOR
from serai.common.tables import setting
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import RUNNING
from serai.runtime.sessions.steps.gate_client import GateClient

Edit = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
MAX_RULES = 1000
PATIENCE = 3.0
"""Seconds: what scrapes metrics waits ten for all of them."""


@dataclass(frozen=True)
class Set:
    """A whole new policy; what is not given is empty. ``cut``: end connections it forbids."""

    name: str
    profile: str = "default"
    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    bind: list[Any] = field(default_factory=list)
    cut: bool = False


@dataclass(frozen=True)
class Change:
    """Rules to add to a session's own, on one side; they are taken from the other side."""

    name: str
    rules: list[str]
    cut: bool = False


@dataclass(frozen=True)
class Bind:
    """A secret for some hosts; what is empty is as its service wants it, the one of its name if
    no other is named."""

    name: str
    secret: str
    service: str = ""
    hosts: list[str] = field(default_factory=list)
    header: str = ""
    basic: str = ""
    query: str = ""
    variable: str = ""


@dataclass(frozen=True)
class Unbind:
    """A secret that a session is to use no more."""

    name: str
    secret: str


@dataclass(frozen=True)
class Explain:
    """Where a session would go: HOST, HOST:PORT (443 without a port) or a URL; and with which
    method, GET for a URL."""

    name: str
    target: str
    method: str = ""


@dataclass(frozen=True)
class Audit:
    """Which entries."""

    after: int | None = setting(None, "those after this number; without it the last", minimum=0)
    limit: int = setting(100, "at most so many", minimum=1, maximum=1000)
    session: str | None = None


class EgressMethods:
    """What clients can ask for about the way out."""

    def __init__(self, sessions: Sessions, gate: GateClient) -> None:
        self._sessions = sessions
        self._gate = gate
        self.table: dict[str, tuple[type, Handler]] = {
            "policy.show": (Name, self.show),
            "policy.set": (Set, self.set),
            "policy.allow": (Change, self.allow),
            "policy.deny": (Change, self.deny),
            "policy.bind": (Bind, self.bind),
            "policy.unbind": (Unbind, self.unbind),
            "policy.explain": (Explain, self.explain),
            "egress": (Nothing, self.counts),
            "audit": (Audit, self.audit),
            "audit.verify": (Nothing, self.verify),
        }

    async def show(self, _c: Connection, _r: Request, p: Name) -> Any:
        """A session's profile, and the rules of its own."""
        return await self._checked(self._sessions.registry.get(p.name).policy)

    async def set(self, _c: Connection, _r: Request, p: Set) -> Any:
        """Give a session another policy; connections from now on are judged by it."""
        wanted = {"profile": p.profile, "allow": p.allow, "deny": p.deny, "bind": p.bind}

        async def edit(_: Mapping[str, Any]) -> dict[str, Any]:
            return wanted

        return await self._apply(p.name, edit, cut=p.cut)

    async def allow(self, _c: Connection, _r: Request, p: Change) -> Any:
        """Allow a session more."""
        return await self._apply(p.name, await self._moved(p, to="allow", away="deny"), cut=p.cut)

    async def deny(self, _c: Connection, _r: Request, p: Change) -> Any:
        """Allow a session less."""
        return await self._apply(p.name, await self._moved(p, to="deny", away="allow"), cut=p.cut)

    async def bind(self, _c: Connection, _r: Request, p: Bind) -> Any:
        """Have a session use a secret, and allow it the hosts that no rule names yet."""
        wish = {key: value for key, value in vars(p).items() if key != "name"}

        async def edit(now: Mapping[str, Any]) -> dict[str, Any]:
            bound: dict[str, Any] = await self._gate.call("bind", policy=dict(now), wish=wish)
            return bound

        known = (await self._gate.call("secret.list"))["secrets"]
        if p.secret not in [each["name"] for each in known]:
            hint = f"set it with: serai secret set {p.secret}"
            raise SeraiError(f"there is no secret {p.secret!a}", hint, NOT_FOUND)
        return await self._apply(p.name, edit, cut=False)

    async def unbind(self, _c: Connection, _r: Request, p: Unbind) -> Any:
        """Have a session use a secret no more. What it may reach stays."""

        async def edit(now: Mapping[str, Any]) -> dict[str, Any]:
            bound = now.get("bind", ())
            left = [each for each in bound if each["secret"] != p.secret]
            if len(left) == len(bound):
                text = f"the session {p.name} has no binding of its own of {p.secret!a}"
                raise SeraiError(text, "its profile may have one", NOT_FOUND)
            return {**now, "bind": left}

        return await self._apply(p.name, edit, cut=False)

    async def explain(self, _c: Connection, _r: Request, p: Explain) -> Any:
        """What the gate would say to a target, and why."""
        policy = self._sessions.registry.get(p.name).policy
        return await self._gate.call(
            "explain", policy=dict(policy), target=p.target, method=p.method
        )

    async def counts(self, _c: Connection, _r: Request, _p: Nothing) -> Any:
        """What each running session did through the gate. A gate that is down is soon told."""
        try:
            counts = await asyncio.wait_for(self._gate.call("counts"), PATIENCE)
        except asyncio.TimeoutError:
            raise SeraiError("the gate does not answer", "see serai-gate.service", GONE) from None
        # Not those of the pool, nor the doctor's.
        shown = {each.name for each in self._sessions.registry.all() if DOCTOR not in each.labels}
        return {"sessions": {name: each for name, each in counts.items() if name in shown}}

    async def audit(self, _c: Connection, _r: Request, p: Audit) -> Any:
        """What was decided, and what became of it."""
        return await self._gate.call("audit", after=p.after, limit=p.limit, session=p.session)

    async def verify(self, _c: Connection, _r: Request, _p: Nothing) -> Any:
        """Whether a line of the audit log was changed or removed."""
        return await self._gate.call("verify")

    async def _checked(self, policy: Mapping[str, Any]) -> dict[str, Any]:
        """The policy with every rule in its one spelling. Raises SeraiError if one is none."""
        checked: dict[str, Any] = await self._gate.call("check", policy=dict(policy))
        return checked

    async def _moved(self, change: Change, *, to: str, away: str) -> Edit:
        rules = (await self._checked({to: change.rules}))[to]

        async def edit(now: Mapping[str, Any]) -> dict[str, Any]:
            more = [*now.get(to, ()), *(rule for rule in rules if rule not in now.get(to, ()))]
            less = [rule for rule in now.get(away, ()) if rule not in rules]
            return {**now, to: more, away: less}

        return edit

    async def _apply(self, name: str, edit: Edit, *, cut: bool) -> dict[str, Any]:
        """Check, note down, and have the gate act by it; in this order, so that none is lost."""
        async with self._sessions.alone(name) as record:
            policy = await self._checked(await edit(record.policy))
            if sum(len(policy[key]) for key in ("allow", "deny", "bind")) > MAX_RULES:
                raise SeraiError(f"a session has at most {MAX_RULES} rules", "use a profile")
            self._sessions.registry.set_policy(record.uid, policy)
            ended = {"cut": 0}
            if record.state in RUNNING:
                ended = await self._gate.call("change", name=name, policy=policy, cut=cut)
            return {**policy, **ended}
