"""What the gate would do with a connection or a request, and why, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serai.common.errors import SeraiError
from serai.gate.egress import Egress, Session
from serai.gate.errors import Unreachable
from serai.gate.messages import injection
from serai.gate.policy import hosts, rules
from serai.gate.policy.hosts import Target
from serai.gate.policy.rules import Rules, Verdict

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Question:
    """Where somebody wants to go. ``method`` is "" if no request is asked about, only a connection;
    ``plain``: without TLS."""

    target: Target
    method: str = ""
    path: str = "/"
    plain: bool = False


def question(text: str, method: str = "") -> Question:
    """What ``text`` asks about, a URL or HOST[:PORT]. Raises SeraiError if it is neither."""
    scheme, is_url, rest = text.partition("://")
    try:
        if not is_url:
            return Question(hosts.target(text, _PORTS["https"]), method)
        port = _PORTS.get(scheme.lower())
        if port is None:
            raise SeraiError("a URL begins with http:// or https://")
        rest = rest.partition("#")[0]
        authority = rest.partition("?")[0].partition("/")[0]
        path = rest[len(authority) :]
        target = hosts.target(authority, port)
    except hosts.BadHost as error:
        raise SeraiError(str(error)) from None
    path = path if path.startswith("/") else f"/{path}"
    return Question(target, method or "GET", path, plain=port == _PORTS["http"])


async def explain(outlet: Egress, session: Session, asked: Question) -> dict[str, Any]:
    """The answer, as JSON has it."""
    target, policy = asked.target, session.rules
    ends = not asked.plain and outlet.ending.ends(policy, target)
    result: dict[str, Any] = {
        "target": str(target),
        "request": f"{asked.method} {asked.path.partition('?')[0]}" if asked.method else None,
        "allowed": False,
        "tls": "none" if asked.plain else "ended" if ends else "tunnel",
        "secrets": [],
        "verdicts": [],
    }
    try:
        judged = await outlet.judge(session, target)
    except Unreachable as error:
        return {**result, "problem": str(error)}
    if any(verdict.allowed for _, verdict in judged) and rules.sees_requests(policy, target):
        verdict = _of_request(session, asked, seen=asked.plain or ends)
        if verdict is not None:
            judged = [(at, verdict if each.allowed else each) for at, each in judged]
    if asked.method and (refused := _secrets(outlet, policy, asked, ended=ends)) is not None:
        judged = [(at, refused if each.allowed else each) for at, each in judged]
    result["allowed"] = any(verdict.allowed for _, verdict in judged)
    if result["allowed"] and ends:
        bound = [each.secret for each in injection.bound(policy.bind, target)]
        result["secrets"] = list(dict.fromkeys(bound))
    result["verdicts"] = [
        {
            "address": None if address is None else str(address),
            "allowed": verdict.allowed,
            "rule": verdict.rule,
            "reason": verdict.reason,
        }
        for address, verdict in judged
    ]
    return result


def _secrets(outlet: Egress, policy: Rules, asked: Question, *, ended: bool) -> Verdict | None:
    """Why a request is refused for the sake of secrets; None if it is not."""
    for binding in policy.bind:
        name, reason = binding.secret, ""
        if asked.plain and binding.names(asked.target.host):
            reason = injection.without_tls(name, asked.target)
        elif ended and binding.covers(asked.target):
            known = outlet.secrets is not None and outlet.secrets.value(name) is not None
            reason = "" if known else injection.unset(name)
        if reason:
            return Verdict(False, f"secret {name}", reason)
    return None


def _of_request(session: Session, asked: Question, *, seen: bool) -> Verdict | None:
    """The verdict on a request that decides; None if none is asked about."""
    if not seen:
        said = f"rules about requests to {asked.target} need to see them"
        reason = f"{said}, and gate.toml has it in never, in [tls]"
        return Verdict(False, "unseen requests", reason)
    if not asked.method:
        return None
    return rules.decide_request(session.rules, asked.target, asked.method, asked.path)
