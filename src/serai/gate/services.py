"""From what a person says of a secret to the bindings: well-known services are data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serai.common import tables
from serai.common.errors import SeraiError
from serai.gate.policy.bindings import Binding
from serai.gate.policy.rules import Rules, rule
from serai.gate.profiles import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SERVICES = Path(__file__).with_name("data") / "services.toml"
_PLACES = ("header", "basic", "query")


@dataclass(frozen=True)
class Wish:
    """A secret to bind; what is empty is as its service wants it, the one of its name if no other
    is named."""

    secret: str
    service: str = ""
    hosts: list[str] = field(default_factory=list)
    header: str = ""
    basic: str = ""
    query: str = ""
    variable: str = ""


def known() -> dict[str, list[dict[str, Any]]]:
    """The bindings of the services by name, without a secret, as JSON has them."""
    found: dict[str, list[dict[str, Any]]] = tomllib.loads(SERVICES.read_text("utf-8"))
    return found


def bindings(wish: Wish) -> tuple[Binding, ...]:
    """The bindings that ``wish`` means. Raises SeraiError if it means none, or wrong ones."""
    services = known()
    if wish.service and wish.service not in services:
        raise SeraiError(f"there is no service {wish.service!a}", _known(services))
    place = {key: getattr(wish, key) for key in _PLACES if getattr(wish, key)}
    found = [place] if place else services.get(wish.service or wish.secret, [{}])
    if wish.hosts and len(found) > 1:
        problem = f"{wish.service or wish.secret} wants a secret in more than one place"
        raise SeraiError(problem, "with --host, say --header, --basic or --query")
    found = [{**each, "hosts": wish.hosts or each.get("hosts", [])} for each in found]
    if not all(each["hosts"] for each in found):
        raise SeraiError(f"for which host is {wish.secret}? Say --host", _known(services))
    if wish.variable:
        own = [each for each in found if "variable" in each] or found
        found = [{**e, "variable": wish.variable} if e in own else e for e in found]
    if not any(key in each for each in found for key in (*_PLACES, "variable")):
        raise SeraiError(
            f"where does {wish.secret} go? Say --header, --basic or --query",
            "or --variable: a program that sends its placeholder sends the secret",
        )
    try:
        return tuple(tables.read(Binding, {**each, "secret": wish.secret}) for each in found)
    except ValueError as error:
        raise SeraiError(f"this cannot be bound: {error}") from error


def added(policy: Policy, rules: Rules, new: Sequence[Binding]) -> Policy:
    """``policy`` with the bindings ``new``, and with their hosts allowed where none of ``rules``,
    which are all that hold for it, names them yet."""
    said = (*rules.allow, *rules.deny)
    allow = []
    for host in (host for each in new for host in each.hosts):
        name, _, port = host.partition(":")
        more = rule(f"{name}:{port or 443}")
        if not any(each.names(name, more.port or 0) for each in said):
            allow.append(more.text)
    return replace(
        policy,
        allow=tuple(dict.fromkeys((*policy.allow, *allow))),
        bind=tuple(dict.fromkeys((*policy.bind, *new))),
    )


def _known(services: dict[str, Any]) -> str:
    return f"services with places of their own: {', '.join(sorted(services))}"
