"""Rules that allow or deny a session's connections, and the decisions they make. Pure.

A rule is one of the following, for every port or with ``:port`` at its end::

    example.com        that host
    *.example.com      its subdomains at any depth, not the host itself
    *                  any name, and any public address
    192.0.2.7          that address
    10.0.0.0/8         the addresses of a network
    2001:db8::/32      likewise; with a port [2001:db8::]/32:443

A rule for names may go on, after a space, with the requests that it is for, as in
``example.com GET /docs/**`` (``requests`` reads it). Such a rule lets a connection be made, or
does not forbid it, and the requests in it are decided one by one. Requests to addresses are not.

Deny wins over allow, and a target that no rule names is denied. A name is decided before it is
looked up; its addresses are decided afterwards.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from serai.gate.policy import requests
from serai.gate.policy.addresses import Network, special
from serai.gate.policy.bindings import Binding
from serai.gate.policy.hosts import Address, Target, host, port_number, unmapped
from serai.gate.policy.requests import Asked, Requests

_MAPPED = IPv6Network("::ffff:0:0/96")
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_PREFIX = re.compile(r"[0-9]{1,3}")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\](/[0-9]*)?(?::(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One rule: for a ``name`` ("example.com", "*.example.com" or "*") or else for a ``network``.

    ``port`` is None for every port, ``request`` is None for all that goes on in a connection.
    ``text`` is the rule's one spelling.
    """

    name: str = ""
    network: Network | None = None
    port: int | None = None
    request: Requests | None = None

    @property
    def text(self) -> str:
        """The rule as it is written down; ``rule`` reads it back."""
        if self.network is None:
            what = self.name
        else:
            address, length = self.network.network_address, self.network.prefixlen
            bare = isinstance(self.network, IPv4Network) or self.port is None
            what = str(address) if bare else f"[{address}]"
            what += "" if length == self.network.max_prefixlen else f"/{length}"
        what += "" if self.port is None else f":{self.port}"
        return what if self.request is None else f"{what} {self.request}"

    def __str__(self) -> str:
        return self.text

    def names(self, name: str, port: int) -> bool:
        """Whether this is a rule for names that holds for the canonical ``name``."""
        if not self.name or self.port not in (None, port):
            return False
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return self.name in ("*", name)

    def covers(self, address: Address, port: int) -> bool:
        """Whether this is a rule for addresses that holds for ``address``."""
        return self.network is not None and self.port in (None, port) and address in self.network


@dataclass(frozen=True)
class Rules:
    """A set of rules, and of the secrets that are for some hosts. The order does not matter."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    bind: tuple[Binding, ...] = ()

    @functools.cached_property
    def about_requests(self) -> bool:
        """Whether any is about requests; where none is, nothing more is to cost a connection."""
        return any(entry.request is not None for entry in (*self.allow, *self.deny))


@dataclass(frozen=True)
class Verdict:
    """A decision, the ``rule`` or range that made it, and the ``reason`` as a sentence."""

    allowed: bool
    rule: str
    reason: str


@dataclass(frozen=True)
class Judged:
    """The verdicts of a policy on a target whose name was ``found`` to have these addresses."""

    policy: Rules
    target: Target
    found: Sequence[Address]
    verdicts: list[tuple[Address | None, Verdict]]

    def holds(self, policy: Rules, target: Target, found: Sequence[Address] | None) -> bool:
        """Whether they still are: the policy is the same, and so is the resolver's answer.

        The very same one, which is used for a second (lookups.KEPT): that is how long nobody may
        see that the VM itself has one of the addresses now.
        """
        return self.found is found and self.policy is policy and self.target == target


def rule(text: str) -> Rule:
    """The rule that ``text`` means; ValueError, naming ``text``, if it is not a rule."""
    try:
        where, space, asked = text.partition(" ")
        if where.startswith("/") or where in _METHODS:
            raise ValueError("host, methods and path are one rule: put them in quotes")
        request = requests.read(asked) if space else None
        what, port_text = _split(where)
        port = None if port_text is None else port_number(port_text)
        if what == "*":
            return Rule(name="*", port=port, request=request)
        network = _network(what) if "/" in what else None
        parent = host(what[2:] if what.startswith("*.") else what) if network is None else ""
        if isinstance(parent, str) and network is None:
            name = f"*.{parent}" if what.startswith("*.") else parent
            return Rule(name=name, port=port, request=request)
        if what.startswith("*."):
            raise ValueError("an address has no subdomains")
        if request is not None:
            raise ValueError("no rule can be about requests to addresses")
        return Rule(network=network or ip_network(parent), port=port)
    except ValueError as error:
        raise ValueError(f"{text!a} is not a rule: {error}") from error


def combined(*many: Rules) -> Rules:
    """All of ``many`` together, each rule once."""
    return Rules(
        allow=tuple(dict.fromkeys(entry for rules in many for entry in rules.allow)),
        deny=tuple(dict.fromkeys(entry for rules in many for entry in rules.deny)),
        bind=tuple(dict.fromkeys(entry for rules in many for entry in rules.bind)),
    )


def decide(
    rules: Rules, target: Target, addresses: Sequence[Address] | None = None
) -> list[tuple[Address | None, Verdict]]:
    """All verdicts on a target: the one on its name, with None, or one for each address.

    ``addresses`` are those that its name leads to; None before they are looked up. An address is
    decided finally. A name that is allowed is decided once more by what it leads to.
    """
    if not isinstance(target.host, str):
        return [(target.host, _by_address(rules, target.host, target.port))]
    verdict = _by_name(rules, target)
    if not verdict.allowed or addresses is None:
        return [(None, verdict)]
    return [(each, _led_to(rules, each, target, verdict)) for each in addresses]


def sees_requests(rules: Rules, target: Target) -> bool:
    """Whether what is asked of ``target`` decides: if not, nobody has to look at it."""
    if not rules.about_requests or not isinstance(target.host, str):
        return False
    if not _by_name(rules, target).allowed:
        return False
    plain = any(entry.request is None for entry in _naming(rules.allow, target))
    return not plain or any(True for _ in _naming(rules.deny, target))


def decide_request(rules: Rules, target: Target, method: str, path: str) -> Verdict:
    """The verdict on one request to a target; ``path`` is in origin-form, with its query."""
    if not isinstance(target.host, str):
        return _by_address(rules, target.host, target.port)
    verdict = _by_name(rules, target)
    if not verdict.allowed:
        return verdict
    asked = Asked(method, path)
    what = f"{target} {asked}"
    why = f": its path leaves doubt, for {asked.doubt}" if asked.doubt else ""
    for entry in _naming(rules.deny, target):
        if entry.request is not None and entry.request.denies(asked):
            because = why if entry.request.path or entry.request.git else ""
            reason = f"{what} is denied by the rule {entry}{because}"
            return Verdict(False, f"deny {entry}", reason)
    for entry in _naming(rules.allow, target):
        if entry.request is None:
            return verdict
        if entry.request.allows(asked):
            return Verdict(True, f"allow {entry}", f"{what} is allowed by the rule {entry}")
    return Verdict(False, "default deny", f"no rule allows {what}{why}")


def names_exactly(rules: Rules, address: Address, port: int) -> bool:
    """Whether a rule allows this very address, not only a network around it."""
    meant = unmapped(address)
    return any(
        entry.covers(meant, port) and entry.network.prefixlen == entry.network.max_prefixlen
        for entry in rules.allow
        if entry.network is not None
    )


def _by_name(rules: Rules, target: Target) -> Verdict:
    for entry in _naming(rules.deny, target):
        if entry.request is None:
            return Verdict(False, f"deny {entry}", f"{target} is denied by the rule {entry}")
    found = None
    for entry in _naming(rules.allow, target):
        found = found or entry
        if entry.request is None:  # it is the one that holds
            found = entry
            break
    if found is None:
        return _default(target)
    return Verdict(True, f"allow {found}", f"{target} is allowed by the rule {found}")


def _naming(many: Sequence[Rule], target: Target) -> Iterator[Rule]:
    name, port = str(target.host), target.port
    return (entry for entry in many if entry.names(name, port))


def _by_address(rules: Rules, address: Address, port: int) -> Verdict:
    """The decision about an address that the client gave itself.

    A special range is opened only by a rule that lies inside it: a rule for everything, such as
    0.0.0.0/0, says nothing about 10.0.0.0/8.
    """
    address = unmapped(address)
    what = str(Target(address, port))
    for entry in rules.deny:
        if entry.covers(address, port) or (_any(entry, port) and entry.request is None):
            return Verdict(False, f"deny {entry}", f"{what} is denied by the rule {entry}")
    covering = [entry for entry in rules.allow if entry.covers(address, port)]
    found = special(address)
    if found is not None:
        return _in_special_range(what, covering, *found)
    unseen = [entry for entry in rules.deny if _any(entry, port)]
    if not unseen:
        covering += [e for e in rules.allow if _any(e, port) and e.request is None]
    if covering:
        return Verdict(True, f"allow {covering[0]}", f"{what} is allowed by the rule {covering[0]}")
    if unseen:  # else it would not hold for a host that is asked for by its address
        reason = f"{what} is an address, where nobody sees the requests that {unseen[0]} denies"
        return Verdict(False, f"deny {unseen[0]}", reason)
    return _default(Target(address, port))


def _led_to(rules: Rules, address: Address, target: Target, by_name: Verdict) -> Verdict:
    """The decision about an address that an allowed name leads to."""
    address, port = unmapped(address), target.port
    what = f"{target.host}, which leads to {Target(address, port)},"
    for entry in rules.deny:
        if entry.covers(address, port):
            return Verdict(False, f"deny {entry}", f"{what} is denied by the rule {entry}")
    found = special(address)
    if found is None:
        return by_name
    covering = [entry for entry in rules.allow if entry.covers(address, port)]
    verdict = _in_special_range(what, covering, *found)
    return by_name if verdict.allowed else verdict


def _in_special_range(what: str, covering: list[Rule], network: Network, kind: str) -> Verdict:
    for entry in covering:
        if entry.network is not None and _inside(entry.network, network):
            return Verdict(True, f"allow {entry}", f"{what} is allowed by the rule {entry}")
    single = network.prefixlen == network.max_prefixlen
    name = f"{kind} address {network[0]}" if single else f"{kind} range {network}"
    verb = "is the" if single else "is in the"
    return Verdict(False, name, f"{what} {verb} {name}, which no rule for addresses opens")


def _any(entry: Rule, port: int) -> bool:
    return entry.name == "*" and entry.port in (None, port)


def _inside(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _default(target: Target) -> Verdict:
    return Verdict(False, "default deny", f"no rule allows {target}")


def _split(text: str) -> tuple[str, str | None]:
    """``text`` without its port, and the port."""
    if text.startswith("["):
        match = _BRACKETED.fullmatch(text)
        if not match:
            raise ValueError("it starts as an IPv6 address in brackets but is not one")
        return match[1] + (match[2] or ""), match[3]
    if text.count(":") > 1:
        return text, None
    what, colon, port = text.partition(":")
    return what, port if colon else None


def _network(text: str) -> Network:
    address, _, prefix = text.partition("/")
    # Python's parser would also take a netmask after the slash, and a zone in the address.
    if "%" in address or not _PREFIX.fullmatch(prefix):
        raise ValueError("a network is an address, a slash and the length of its prefix")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("it has a slash but is not a network such as 10.0.0.0/8") from None
    if network.network_address != ip_address(address):
        raise ValueError(f"it has bits behind its prefix; the network is {network}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((network.network_address.packed[-4:], network.prefixlen - 96))
    return network
