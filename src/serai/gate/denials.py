"""The gate's own answers to a client over HTTP, in words that a person and an agent can act on."""

from __future__ import annotations

import json
import shlex
from http import HTTPStatus
from typing import Any

from serai.gate.errors import Denied, Unreachable
from serai.gate.policy.hosts import Host, Target

SERVER = b"serai-gate"
_STATUS = {Unreachable.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT}


def denied(session: str, target: Target, denial: Denied) -> tuple[HTTPStatus, str, dict[str, Any]]:
    """The answer to a denied request: status, text, and the same as data."""
    ask = f"serai policy allow {session} {shlex.quote(denial.missing or str(target))}"
    advice = f"The VM's administrator can\nallow it with: {ask}"
    if denial.rule.startswith("deny "):  # a further allow rule would not help
        ask = f"serai policy show {session}"
        advice = f"The VM's administrator\ncan see the rule with: {ask}"
    elif denial.rule.startswith("secret "):
        ask, advice = "", "What is bound to\nwhich hosts shows: serai policy show " + session
    elif denial.rule.startswith("own address "):
        ask, advice = "", "Only a rule for\nexactly this address opens an address of this VM."
    reason, where = denial.reason, ""
    if _sounds_own(target.host):
        reason = "to reach your own server, do not use the proxy"
        where = f"What listens in the session is there, past the proxy: NO_PROXY={target.host}.\n"
    text = (
        f"Serai's gate denied {target} to session {session}: {reason} ({denial.rule}).\n{where}"
        f"This is policy, not an outage: trying again will not help. {advice}\n"
    )
    data = {
        "error": "denied",
        "host": str(target.host),
        "port": target.port,
        "session": session,
        "rule": denial.rule,
        "reason": denial.reason,
        "ask": ask,
    }
    return HTTPStatus.FORBIDDEN, text, data


def _sounds_own(host: Host) -> bool:
    """Whether a client may mean its own session, where it is: the gate is outside of that."""
    if isinstance(host, str):
        return "." not in host or host.endswith(".localhost")
    return host.is_loopback or host.is_unspecified


def unreachable(target: Target, failure: Unreachable) -> tuple[HTTPStatus, str, dict[str, Any]]:
    """The answer to a request that cannot be carried out, whatever the policy says."""
    text = f"Serai's gate allows {target} but cannot reach it: {failure}.\n"
    if failure.kind == Unreachable.NOT_RECORDED:
        text = f"Serai's gate lets nobody out at present: {failure}.\n"
    data = {
        "error": "unreachable",
        "host": str(target.host),
        "port": target.port,
        "kind": failure.kind,
        "reason": str(failure),
    }
    return _STATUS.get(failure.kind, HTTPStatus.BAD_GATEWAY), text, data


def response(
    status: HTTPStatus,
    text: str,
    data: dict[str, Any] | None = None,
    *,
    as_json: bool = False,
    bodyless: bool = False,
) -> bytes:
    """A whole HTTP response after which the connection is closed.

    The reason phrase holds the first line of ``text``: of an answer to CONNECT, most clients show
    that alone. The body is the text with the data as its last line, or only the data ``as_json``.
    An answer to HEAD is ``bodyless``: a client that goes on would read a body as the next answer.
    """
    line = json.dumps(data) + "\n" if data is not None else ""
    body = (line if as_json else text + line).encode()
    reason = text.partition("\n")[0].encode("ascii", "replace")[:200]
    kind = "application/json" if as_json else "text/plain; charset=utf-8"
    head = [
        b"HTTP/1.1 %d %s" % (status, reason),
        b"Server: " + SERVER,
        b"Content-Type: " + kind.encode(),
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
        b"Connection: close",
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + (b"" if bodyless else body)
