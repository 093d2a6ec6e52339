"""The way of every connection, for HTTP and SOCKS5 alike: judge, write to the audit log, dial."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serai.common.labels import DOCTOR
from serai.gate.allowance import Allowance
from serai.gate.audit.writer import Log
from serai.gate.connections import dial, upstream
from serai.gate.connections.lookups import Lookups
from serai.gate.connections.relay import Traffic, relay, within
from serai.gate.connections.share import Share
from serai.gate.connections.upstream import Line
from serai.gate.errors import Denied, Unreachable, words
from serai.gate.policy import rules
from serai.gate.policy.hosts import Address, Target
from serai.gate.policy.requests import Asked
from serai.gate.policy.rules import Judged, Rules, Verdict
from serai.gate.profiles import Policy
from serai.gate.secrets import Store
from serai.gate.settings import Settings
from serai.gate.tls.ending import TlsEnding

log = logging.getLogger("serai.gate")
T = TypeVar("T")
# The kernel lets a connection's buffers grow to 10 MiB, as a fast and distant server needs. A
# session may have so many of those, and all further ones stay small.
_ROOMY = 32
_BUFFER = 64 << 10
_MOST_PATH = 1024


@dataclass
class Counts:
    """Decisions about a session, and the bytes of its requests that have ended."""

    allowed: int = 0
    denied: int = 0
    sent: int = 0
    received: int = 0


@dataclass(eq=False)
class Session:
    """A session as the gate knows it: its name, its user, its policy, and what that last said."""

    name: str
    uid: int
    policy: Policy
    rules: Rules
    allowance: Allowance
    lookups: Lookups
    connections: set[Connection] = field(default_factory=set)
    share: Share = field(default_factory=Share)
    judged: Judged | None = None
    counts: Counts = field(default_factory=Counts)
    labels: dict[str, str] = field(default_factory=dict)
    identity: upstream.Headers = ()

    def counted(self) -> dict[str, int]:
        """How many connections it has open, and its counts with what those have carried."""
        carried = [each.traffic for each in self.connections]
        return {
            "open": len(carried),
            "allowed": self.counts.allowed,
            "denied": self.counts.denied,
            "sent": self.counts.sent + sum(each.sent for each in carried),
            "received": self.counts.received + sum(each.received for each in carried),
        }


@dataclass(frozen=True)
class Request:
    """A request that the gate can read: in TLS that it ends (``tls``), or without TLS.

    ``path`` is the origin-form with the query, as the client sent it, so without secrets.
    """

    method: str
    path: str
    tls: bool

    def noted(self) -> dict[str, Any]:
        """What the audit log gets of it: not the query, which may hold anything."""
        ended = {"tls": "ended"} if self.tls else {}
        return {**ended, "method": self.method, "path": self.path.partition("?")[0][:_MOST_PATH]}


@dataclass(eq=False)
class Connection:
    """A client's connection. ``target`` and ``address`` are those of its current request.

    ``opaque``: it is a tunnel, in which no request can be judged. ``judged_by`` are the rules that
    allowed the address of the last line that was dialled. ``opened`` is when it was
    accepted, ``began`` when the last decision was made, in loop.time().
    """

    session: Session
    protocol: str
    traffic: Traffic
    opened: float
    began: float = 0.0
    target: Target | None = None
    address: Address | None = None
    opaque: bool = False
    judged_by: Rules | None = None
    task: asyncio.Task[None] = field(init=False)
    end: str = ""

    def cut(self, why: str) -> None:
        """End it at once; the audit log gets ``why`` as its error."""
        self.end = why
        self.task.cancel()


class Egress:
    """Judges, audits and dials for all sessions."""

    def __init__(
        self,
        settings: Settings,
        audit: Log,
        resolve: dial.Resolve,
        *,
        ending: TlsEnding | None = None,
        secrets: Store | None = None,
    ) -> None:
        self.settings = settings
        self.log = audit
        self.ending = ending or TlsEnding(settings.tls, None)
        self.secrets = secrets
        self._resolve = resolve

    async def judge(self, session: Session, target: Target) -> list[tuple[Address | None, Verdict]]:
        """The policy's verdicts on a target: one for each address, None stands for its name.

        A denied name is not resolved, nor is a name that a parent proxy resolves. Raises
        Unreachable if the name has no address, or none in time.
        """
        by_parent, found = self.settings.upstream.resolve == "parent", None
        if isinstance(target.host, str) and not by_parent:
            found, last = session.lookups.known(target.host), session.judged
            if last is not None and last.holds(session.rules, target, found):
                return last.verdicts
        verdicts = rules.decide(session.rules, target)
        if not isinstance(target.host, str) or not verdicts[0][1].allowed or by_parent:
            return self._own(session.rules, target, verdicts)
        if found is None:
            found = await self._in_time(session.lookups.find(target.host, self._resolve))
        if not found:
            raise Unreachable(Unreachable.NO_ADDRESS, f"{target.host} has no address")
        verdicts = self._own(session.rules, target, rules.decide(session.rules, target, found))
        session.judged = Judged(session.rules, target, found, verdicts)
        return verdicts

    def verdict_now(self, connection: Connection) -> Verdict:
        """The verdict of the session's current policy on the connection's target and address.

        The connection must have a ``target``.
        """
        target, policy = connection.target, connection.session.rules
        assert target is not None  # noqa: S101
        if connection.opaque and (hidden := _hidden(policy, target)) is not None:
            return hidden
        found = None if connection.address is None else [connection.address]
        return self._own(policy, target, rules.decide(policy, target, found))[0][1]

    async def open(
        self,
        connection: Connection,
        target: Target,
        *,
        plain: bool,
        request: Request | None = None,
        secrets: Sequence[str] = (),
        kept: Line | None = None,
    ) -> Line:
        """A line to the target, once the decision is in the audit log.

        Without a ``request`` it is for a tunnel. ``secrets`` are the names of those that go in.
        ``kept`` is a line that an earlier request has left: it is judged again, and not dialled.
        Raises Denied or Unreachable; Unreachable also if the log cannot be written.
        """
        session = connection.session
        judged_by = session.rules
        connection.target, connection.address = target, None
        noted = {} if request is None else request.noted()
        if secrets:
            noted["secret"] = ", ".join(secrets)
        try:
            judged = await self._judge(connection, target, request, kept)
        except Unreachable as error:
            verdict = rules.decide(session.rules, target)[0][1]
            self._decided(connection, verdict, **noted, error=str(error))
            raise
        good = [address for address, verdict in judged if verdict.allowed]
        connection.address, verdict = next((pair for pair in judged if pair[1].allowed), judged[0])
        self._decided(connection, verdict, **noted)
        if not good:
            await asyncio.sleep(session.allowance.wait())
            # Where the name is allowed but not what it leads to, only a rule for that helps.
            to = connection.address
            missing = "" if to is None else str(Target(to, target.port))
            if request is not None and rules.sees_requests(session.rules, target):
                missing = f"{target} {Asked(request.method, request.path).rule}"
            raise Denied(verdict.rule, verdict.reason, missing)
        if kept is not None:
            return kept
        known = [address for address in good if address is not None]
        return await self._dialled(connection, target, known, judged_by, plain=plain)

    async def _dialled(
        self,
        connection: Connection,
        target: Target,
        known: list[Address],
        judged_by: Rules,
        *,
        plain: bool,
    ) -> Line:
        """A new line to one of the addresses that ``judged_by`` allows. Raises as ``open`` does."""
        session = connection.session
        way = None
        try:
            parent, who = self.settings.upstream, session.identity
            dialled = upstream.line(parent, target, known, session.share, plain=plain, who=who)
            way = await self._in_time(dialled)
            connection.address, connection.judged_by = way.address, session.rules
            if session.rules is not judged_by:  # the policy has changed meanwhile
                verdict = self.verdict_now(connection)
                if not verdict.allowed:
                    raise Denied(verdict.rule, verdict.reason)
            if len(session.connections) > _ROOMY:
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    way.sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        except BaseException as failure:
            if way is not None:
                way.sock.close()
            self.closed(connection, words(failure))
            raise
        return way

    async def carry(
        self, client: socket.socket, connection: Connection, way: Line, greeting: bytes, rest: bytes
    ) -> None:
        """Carry a tunnel until its end, and write the end to the audit log.

        ``greeting`` tells the client that it is open; ``rest`` is what the client sent early.
        """
        loop = asyncio.get_running_loop()
        traffic, error = connection.traffic, ""
        connection.opaque = True
        try:
            await loop.sock_sendall(client, greeting + way.early)
            if rest:
                await loop.sock_sendall(way.sock, rest)
            traffic.sent += len(rest)
            traffic.received += len(way.early)
            await relay(client, way.sock, traffic, connection.session.share)
        except OSError as failure:
            error = words(failure)
        finally:
            self.closed(connection, error)

    async def _judge(
        self, connection: Connection, target: Target, request: Request | None, kept: Line | None
    ) -> list[tuple[Address | None, Verdict]]:
        """The verdicts on a request or a tunnel: on the host first, as long as that allows it."""
        policy = connection.session.rules
        if kept is None:
            judged = await self.judge(connection.session, target)
        elif policy is connection.judged_by:
            judged = [(kept.address, rules.decide(policy, target)[0][1])]
        else:
            known = None if kept.address is None else [kept.address]
            judged = self._own(policy, target, rules.decide(policy, target, known))
        if not any(verdict.allowed for _, verdict in judged):
            return judged
        if request is None:
            hidden = _hidden(policy, target)
            return judged if hidden is None else [(None, hidden)]
        if not rules.sees_requests(policy, target):
            return judged
        verdict = rules.decide_request(policy, target, request.method, request.path)
        if not verdict.allowed:
            return [(None, verdict)]
        return [(address, verdict if each.allowed else each) for address, each in judged]

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        limit = self.settings.timeouts.dial
        try:
            return await within(limit, work)
        except asyncio.TimeoutError:
            raise Unreachable(Unreachable.TIMEOUT, f"no answer within {limit:g} s") from None

    def _own(
        self, policy: Rules, target: Target, verdicts: list[tuple[Address | None, Verdict]]
    ) -> list[tuple[Address | None, Verdict]]:
        """Refuse this VM's own addresses, but for those that a rule names one by one.

        Its sshd listens there, and a rule for the network around it does not mean that.
        """
        if self.settings.upstream.kind != "direct":
            return verdicts
        return [(address, _but_not_own(policy, target, address, v)) for address, v in verdicts]

    def refuse(
        self, connection: Connection, target: Target, verdict: Verdict, request: Request | None
    ) -> None:
        """Note down what no rule refused. Raises Unreachable if the log cannot be written."""
        connection.target, connection.address = target, None
        noted = {} if request is None else request.noted()
        self._decided(connection, verdict, **noted, error=verdict.reason)
        connection.target = None

    def closed(self, connection: Connection, error: str = "", status: int = 0) -> None:
        """Write the end of the connection's current request to the audit log."""
        traffic, error = connection.traffic, connection.end or error
        entry = {
            "event": "closed",
            **_who(connection),
            "sent": traffic.sent,
            "received": traffic.received,
            "seconds": round(asyncio.get_running_loop().time() - connection.began, 3),
            **({"status": status} if status else {}),
            **({"error": error} if error else {}),
        }
        connection.session.counts.sent += traffic.sent
        connection.session.counts.received += traffic.received
        traffic.sent = traffic.received = 0
        connection.target = connection.address = None
        try:
            self.log.append(entry)
        except OSError as failure:
            log.error("the end of a connection is not noted down: %s", failure)

    def _decided(self, connection: Connection, verdict: Verdict, **more: Any) -> None:
        decision = {"allowed": verdict.allowed, "rule": verdict.rule, **more}
        connection.began = asyncio.get_running_loop().time()
        if verdict.allowed:
            connection.session.counts.allowed += 1
        else:
            connection.session.counts.denied += 1
        try:
            self.log.append({"event": "decision", **_who(connection), **decision})
        except OSError as failure:
            # What is not noted down is not done.
            problem = f"the audit log cannot be written: {failure.strerror}"
            log.error("%s", problem)
            raise Unreachable(Unreachable.NOT_RECORDED, problem) from None


def _hidden(policy: Rules, target: Target) -> Verdict | None:
    """Why no tunnel may lead there: its requests have to be judged, and nobody could see them."""
    if not rules.sees_requests(policy, target):
        return None
    return Verdict(False, "unseen requests", f"rules about requests to {target} need to see them")


def _but_not_own(
    policy: Rules, target: Target, address: Address | None, verdict: Verdict
) -> Verdict:
    if address is None or not verdict.allowed:
        return verdict
    if rules.names_exactly(policy, address, target.port) or not dial.is_own(address):
        return verdict
    return Verdict(False, f"own address {address}", "it is an address of this VM")


def _who(connection: Connection) -> dict[str, Any]:
    target, address = connection.target, connection.address
    return {
        "session": connection.session.name,
        "uid": connection.session.uid,
        **({"doctor": True} if DOCTOR in connection.session.labels else {}),
        "protocol": connection.protocol,
        "host": None if target is None else str(target.host),
        "port": None if target is None else target.port,
        "address": None if address is None else str(address),
    }
