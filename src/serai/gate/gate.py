"""The gate: all sessions, the two sockets of each, and all open connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from serai.common import files, sockets
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.gate import denials, http, profiles, socks
from serai.gate.allowance import Allowance
from serai.gate.connections import upstream
from serai.gate.connections.lookups import Lookups
from serai.gate.connections.relay import Traffic, hang_up
from serai.gate.connections.share import metered
from serai.gate.credentials import Credentials
from serai.gate.egress import Connection, Egress, Session
from serai.gate.explain import Question, explain
from serai.gate.policy.rules import Rules
from serai.gate.profiles import Policy

log = logging.getLogger("serai.gate")
PROTOCOLS = {"http": http.serve, "socks": socks.serve}
BACKLOG = 4096
SWEEP = 5.0  # seconds
_AT_ONCE = 64
_MOST_LEAVING = 64


class Gate:
    """All sessions and connections. ``paths`` says where sockets, state and profiles are."""

    def __init__(
        self, paths: Paths, outlet: Egress, credentials: Credentials | None = None
    ) -> None:
        self._paths = paths
        self._egress = outlet
        self._credentials = credentials
        self._profiles: dict[str, Rules] = {}
        self._sessions: dict[str, Session] = {}
        self._listeners: dict[str, list[socket.socket]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Open the sessions that the previous gate had, with their policies."""
        self.reload()
        self._paths.gate_state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._paths.gate_state.glob("*.json"):
            try:
                known = json.loads(file.read_text())
                name, policy = known["name"], profiles.policy(known["policy"])
                self._open(name, known["uid"], policy, self._rules(name, policy))
                self.label(name, known.get("labels", {}))
            except (SeraiError, OSError, ValueError, KeyError, TypeError) as error:
                # sessiond tells about those that run when it starts, or creates them anew.
                log.error("session %s is not taken up: %s", file.stem, error)
                if isinstance(error, FileNotFoundError):  # the folder of its sockets
                    file.unlink(missing_ok=True)

    def reload(self) -> None:
        """Read the profiles again. If one is wrong, raises SeraiError and keeps the old ones.

        A session whose profile is gone reaches nothing from now on.
        """
        self._profiles = profiles.load(self._paths.profiles)
        for session in self._sessions.values():
            session.rules = self._rules(session.name, session.policy)
            self._save(session)
            if session.rules == Rules():
                self._cut_forbidden(session)

    def _rules(self, name: str, policy: Policy) -> Rules:
        """Those of a policy that was good once: nothing, if its profile has been withdrawn."""
        try:
            return profiles.effective(policy, self._profiles)
        except SeraiError as error:
            log.warning("session %s reaches nothing: %s", name, error)
            return Rules()

    def _cut_forbidden(self, session: Session) -> int:
        """End the connections that the session's rules forbid; returns how many."""
        used = [each for each in session.connections if each.target is not None]
        forbidden = [each for each in used if not self._egress.verdict_now(each).allowed]
        for connection in forbidden:
            connection.cut("the policy forbids it now")
        return len(forbidden)

    def open(self, name: str, uid: int, policy: Policy) -> None:
        """Listen for a session; a known one gets the new policy. Raises SeraiError or OSError."""
        known = self._sessions.get(name)
        # sessiond tells of each session when it starts, also of one whose profile is gone by then.
        again = known is not None and (known.uid, known.policy) == (uid, policy)
        if not again:
            self.check(policy)
        self._open(name, uid, policy, self._rules(name, policy))

    def _open(self, name: str, uid: int, policy: Policy, rules: Rules) -> None:
        known = self._sessions.get(name)
        if known is not None and known.uid != uid:
            self.close(name)
            known = None
        if known is None:
            limits = self._egress.settings.limits
            known = Session(
                name=name,
                uid=uid,
                policy=policy,
                rules=rules,
                allowance=Allowance(limits.denials_per_second, limits.denials_burst),
                lookups=Lookups(limits.lookups),
            )
            self._listen(known)
            self._sessions[name] = known
        known.policy, known.rules = policy, rules
        self._save(known)

    def label(self, name: str, labels: dict[str, str]) -> None:
        """A session has these labels now, which a parent proxy may be told."""
        session = self._sessions[name]
        session.identity = upstream.identity(name, labels)
        if session.labels != labels:
            session.labels = labels
            self._save(session)

    def close(self, name: str) -> None:
        """Cut a session's connections and remove its sockets; does nothing if it is unknown."""
        session = self._sessions.pop(name, None)
        for listener in self._listeners.pop(name, []):
            _stop(listener)
        for protocol in PROTOCOLS:
            (self._paths.gate(name) / f"{protocol}.sock").unlink(missing_ok=True)
        self._state(name).unlink(missing_ok=True)
        if session is not None:
            for connection in session.connections:
                connection.cut("the session has ended")

    def keep(self, names: set[str]) -> None:
        """Close every session but these."""
        for name in set(self._sessions) - names:
            self.close(name)

    def change(self, name: str, policy: Policy, *, cut: bool) -> int:
        """Give a session another policy, for connections from now on; ``cut`` ends those that it
        forbids. Returns how many were cut. Raises SeraiError for an unknown session or profile.
        """
        session = self._sessions.get(name)
        if session is None:
            raise SeraiError(f"the gate knows no session {name}")
        session.rules = profiles.effective(policy, self._profiles)
        session.policy = policy
        self._save(session)
        return self._cut_forbidden(session) if cut else 0

    def check(self, policy: Policy) -> Rules:
        """All rules of a policy and its profile. Raises SeraiError if it cannot be used."""
        return profiles.effective(policy, self._profiles)

    async def explain(self, policy: Policy, asked: Question) -> dict[str, Any]:
        """The decision that the gate would make now, and why."""
        rules = profiles.effective(policy, self._profiles)
        session = Session("", 0, policy, rules, Allowance(1, 1), Lookups(1))
        return await explain(self._egress, session, asked)

    def note(self, operations: list[dict[str, Any]]) -> int:
        """Write what sessiond did to the audit log, until that fails; returns how many it has."""
        for number, operation in enumerate(operations):
            try:
                self._egress.log.append({"event": "operation", **operation})
            except (OSError, ValueError) as error:
                log.error("what sessiond did is not noted down: %s", error)
                return number
        return len(operations)

    def log_problem(self) -> str:
        """What keeps the audit log from being written."""
        return self._egress.log.problem()

    def status(self) -> dict[str, Any]:
        """How many connections each session has open."""
        return {name: len(each.connections) for name, each in self._sessions.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """What each session has open, and what it did since this gate knows it."""
        return {name: each.counted() for name, each in self._sessions.items()}

    @property
    def sweep_interval(self) -> float:
        """How many seconds may pass between two sweeps, for the shortest of the timeouts."""
        limits = self._egress.settings.timeouts
        return min(SWEEP, limits.idle, limits.half_closed, limits.total)

    def sweep(self, now: float) -> None:
        """End connections that were idle or open for too long; ``now`` is loop.time()."""
        limits = self._egress.settings.timeouts
        for session in self._sessions.values():
            for connection in session.connections:
                traffic = connection.traffic
                idle = limits.half_closed if traffic.half_closed else limits.idle
                if now - traffic.touched > idle:
                    connection.cut(f"nothing came for {idle:g} s")
                elif now - connection.opened > limits.total:
                    connection.cut(f"it was open for {limits.total:g} s")

    async def stop(self) -> None:
        """End every connection; sockets and state stay for the next gate."""
        for listeners in self._listeners.values():
            for listener in listeners:
                _stop(listener)
        open_ = [each for known in self._sessions.values() for each in known.connections]
        for connection in open_:
            connection.cut("the gate is stopped")
        await asyncio.gather(*(each.task for each in open_), return_exceptions=True)

    def _listen(self, session: Session) -> None:
        """Open both sockets, or none. sessiond makes their directory, whose group may pass."""
        listeners: list[socket.socket] = []
        try:
            for protocol in PROTOCOLS:
                path = self._paths.gate(session.name) / f"{protocol}.sock"
                listener = files.listening(path, BACKLOG)
                listeners.append(listener)
                self._watch(listener, session, protocol)
        except BaseException:
            for listener in listeners:
                _stop(listener)
            raise
        self._listeners[session.name] = listeners

    def _watch(self, listener: socket.socket, session: Session, protocol: str) -> None:
        loop = asyncio.get_running_loop()
        if listener.fileno() >= 0:
            loop.add_reader(listener, self._accept, listener, session, protocol)

    def _accept(self, listener: socket.socket, session: Session, protocol: str) -> None:
        loop = asyncio.get_running_loop()
        if session.share.busy:
            # Its connections can wait, too, and the loop is not to look at them all the time.
            loop.remove_reader(listener)
            session.share.wait(partial(self._accept_in_turn, listener, session, protocol))
            return
        self._accept_some(listener, session, protocol)

    def _accept_in_turn(self, listener: socket.socket, session: Session, protocol: str) -> None:
        """At once: in the next turn of the loop the session's other connections are busy again."""
        if listener.fileno() >= 0:
            self._watch(listener, session, protocol)
            self._accept_some(listener, session, protocol)

    def _accept_some(self, listener: socket.socket, session: Session, protocol: str) -> None:
        session.share.begin()
        try:
            self._accept_charged(listener, session, protocol)
        finally:
            session.share.end()

    def _accept_charged(self, listener: socket.socket, session: Session, protocol: str) -> None:
        watch = partial(self._watch, listener, session, protocol)
        failed = partial(log.error, "a connection of %s is not accepted: %s", session.name)
        for _ in range(_AT_ONCE):
            if session.share.overdue():
                return
            client = sockets.accept(listener, watch, failed)
            if client is None:
                return
            client.setblocking(False)
            if len(session.connections) >= self._egress.settings.limits.connections:
                self._turn_away(client, session, protocol)
                continue
            self._begin(client, session, protocol)

    def _turn_away(self, client: socket.socket, session: Session, protocol: str) -> None:
        """Refuse a connection too many, with an answer if that costs little."""
        crowded = protocol != "http" or len(self._leaving) >= _MOST_LEAVING
        if crowded or not session.allowance.take():
            client.close()
            return
        text = f"Session {session.name} has {len(session.connections)} connections open already.\n"
        response = denials.response(HTTPStatus.SERVICE_UNAVAILABLE, text)
        task = asyncio.get_running_loop().create_task(_say(client, response))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _begin(self, client: socket.socket, session: Session, protocol: str) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        connection = Connection(session, protocol, Traffic(now), opened=now)
        work = partial(self._serve, client, connection)
        connection.task = loop.create_task(metered(session.share, work))
        session.connections.add(connection)

        def ended(_task: object) -> None:  # also where the task was cut before its first step
            client.close()
            session.connections.discard(connection)

        connection.task.add_done_callback(ended)

    async def _serve(self, client: socket.socket, connection: Connection) -> None:
        try:
            await PROTOCOLS[connection.protocol](client, connection, self._egress)
        except OSError as error:
            log.debug("%s: %s", connection.session.name, error)
        except Exception:
            log.exception("a connection of %s failed", connection.session.name)

    def _state(self, name: str) -> Path:
        return self._paths.gate_state / f"{name}.json"

    def _given(self, session: Session) -> dict[str, str]:
        """What the session's programs are given: nothing where the gate cannot, and says why."""
        if self._credentials is None:
            return {}
        folder = self._paths.certificates(session.name)
        try:
            return self._credentials.give(session.uid, session.rules, folder)
        except (OSError, SeraiError) as error:
            log.error("session %s gets no certificates: %s", session.name, error)
            return {}

    def refresh(self) -> None:
        """Give all sessions their certificates again, for there may be new ones."""
        for session in self._sessions.values():
            self._save(session)

    def _save(self, session: Session) -> None:
        known = {
            "name": session.name,
            "uid": session.uid,
            "policy": session.policy.as_dict(),
            "environment": self._given(session),
            "labels": session.labels,
        }
        files.write(self._state(session.name), json.dumps(known).encode(), 0o600, durable=False)


def _stop(listener: socket.socket) -> None:
    asyncio.get_running_loop().remove_reader(listener)
    listener.close()


async def _say(client: socket.socket, response: bytes) -> None:
    with client, contextlib.suppress(OSError):
        client.send(response)
        await hang_up(client)
