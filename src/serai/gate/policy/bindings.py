"""Bindings: for which hosts a secret is, and where in a request it goes. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serai.common.tables import setting
from serai.gate.policy import hosts
from serai.gate.policy.hosts import Host, Target

PORT = 443
SECRET_NAME = re.compile(r"[a-z0-9-]{1,63}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LONGEST = 256
# They say how a request is framed, where it goes or what the connection is for: not the session's
# business, nor a place for a secret.
_NOT_HEADERS = {
    *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te"),
    *("trailer", "expect", "content-encoding", "range", "cookie2", "http2-settings", "via"),
    *("forwarded", "max-forwards", "date"),
}
_NOT_HEADERS_LIKE = ("proxy-", "x-forwarded-", "sec-", ":")
# What Serai sets itself, and what decides which code a program runs or whom it trusts.
_NOT_VARIABLES = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TERM", "TMPDIR", "LANG", "TZ"),
    *("IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "CDPATH"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYLIB", "RUBYOPT"),
    *("NODE_OPTIONS", "NODE_PATH", "CLASSPATH", "EDITOR", "VISUAL", "PAGER", "BROWSER"),
    *("NODE_USE_ENV_PROXY", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "PIP_CERT"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT"),
}
_NOT_VARIABLES_LIKE = ("LD_", "LC_", "XDG_", "SERAI_", "SSL_", "BASH_FUNC_", "GIT_", "DYLD_")
_NOT_VARIABLES_ENDING = ("_PROXY", "_OPTIONS", "_OPTS", "_CA_BUNDLE", "_CAFILE")


def secret_name(text: str) -> str:
    """For ``parse``: the name of a secret."""
    if not SECRET_NAME.fullmatch(text):
        raise ValueError(f"{text!a} is not a name of a-z, 0-9 and hyphens, at most 63")
    return text


def bound_host(text: str) -> str:
    """For ``parse``: a host in its one spelling: ``*.example.com`` or ``example.com:8443``."""
    name, colon, port = text.partition(":")
    parent = name.removeprefix("*.")
    if parent == "*" or not name:
        raise ValueError(f"{text!a}: a secret is for some hosts, not for all")
    if "[" in text or ":" in port or not isinstance(host := hosts.host(parent), str):
        raise ValueError(f"{text!a}: a secret is for names, not for addresses")
    number = hosts.port_number(port) if colon else PORT
    written = host if parent == name else f"*.{host}"
    return written if number == PORT else f"{written}:{number}"


def _header(text: str) -> str:
    if not text:
        return text
    name, colon, template = (part.strip(" ") for part in text.partition(":"))
    if not colon or not _TOKEN.fullmatch(name):
        raise ValueError(f"{text!a} is not a header, as in 'Authorization: Bearer {{}}'")
    plain = _place(name)
    if plain in _NOT_HEADERS or plain.startswith(_NOT_HEADERS_LIKE):
        raise ValueError(f"a secret cannot go into the header {name}")
    if template.count("{}") != 1 or not (template.isascii() and template.isprintable()):
        raise ValueError(f"{text!a} must have {{}} once, where the secret goes, in printable ASCII")
    if len(text) > _LONGEST:
        raise ValueError(f"a header has at most {_LONGEST} characters")
    return f"{name}: {template}"


def _basic(text: str) -> str:
    # A colon would end it (RFC 7617, section 2).
    if not (text.isascii() and text.isprintable()) or ":" in text or len(text) > _LONGEST:
        raise ValueError(f"{text!a} is not a user's name: printable ASCII without a colon")
    return text


def _query(text: str) -> str:
    if text and (not _PLAIN.fullmatch(text) or len(text) > _LONGEST):
        raise ValueError(f"{text!a} is not a parameter's name: letters, digits and . _ ~ -")
    return text


def _variable(text: str) -> str:
    if text and not _VARIABLE.fullmatch(text):
        raise ValueError(f"{text!a} is not the name of a variable")
    name = text.upper()
    like = name.startswith(_NOT_VARIABLES_LIKE) or name.endswith(_NOT_VARIABLES_ENDING)
    if name in _NOT_VARIABLES or like:
        raise ValueError(f"the variable {text} is not for secrets: it means something else already")
    return text


@dataclass(frozen=True)
class Binding:
    """A secret, the hosts that it is for, and its place: one of ``header``, ``basic`` and
    ``query``, or else wherever its placeholder stands.
    """

    secret: str = setting("", "the secret's name", parse=secret_name)
    hosts: tuple[str, ...] = setting(
        (), 'the hosts that it is for, with port 443 or as in "host:8443"', parse=bound_host
    )
    header: str = setting("", 'the header that it goes into, "Name: template {}"', parse=_header)
    basic: str = setting("", "the user whose password it is in HTTP Basic", parse=_basic)
    query: str = setting("", "the parameter of the query that it goes into", parse=_query)
    variable: str = setting("", "the variable that has its placeholder", parse=_variable)

    def __post_init__(self) -> None:
        if not self.secret or not self.hosts:
            raise ValueError("a binding has a secret and hosts")
        if sum(map(bool, (self.header, self.basic, self.query))) > 1:
            raise ValueError(f"{self.secret} has one place: a header, Basic or the query")

    def names(self, host: Host) -> bool:
        """Whether the secret is for ``host`` at some port."""
        return isinstance(host, str) and any(_like(_name(each), host) for each in self.hosts)

    def covers(self, target: Target) -> bool:
        """Whether the secret is for ``target``."""
        return isinstance(target.host, str) and any(
            _port(each) == target.port and _like(_name(each), target.host) for each in self.hosts
        )

    def as_dict(self) -> dict[str, Any]:
        """The binding as JSON has it, without what is empty; ``tables.read`` reads it back."""
        known = {**vars(self), "hosts": list(self.hosts)}
        return {key: value for key, value in known.items() if value}

    @property
    def place(self) -> str:
        """What it writes in a request, to compare: two may not write the same for one host."""
        if self.query:
            return f"the parameter {self.query}"
        if not (self.basic or self.header):
            return ""
        return f"the header {'authorization' if self.basic else _place(self.header.split(':')[0])}"

    def __str__(self) -> str:
        return f"{self.secret} for {', '.join(self.hosts)}"


def clash(many: Sequence[Binding]) -> str:
    """Which two bindings cannot be together, and why; empty if all can."""
    for at, one in enumerate(many):
        for other in many[:at]:
            if one == other:
                continue
            if one.variable and one.variable == other.variable and one.secret != other.secret:
                return f"{other} and {one} have the same variable {one.variable}"
            if one.place and one.place == other.place and _meet(one, other):
                return f"{other} and {one} write {one.place} for the same host"
    return ""


def _meet(one: Binding, other: Binding) -> bool:
    return any(
        _port(a) == _port(b) and (_like(_name(a), _name(b)) or _like(_name(b), _name(a)))
        for a in one.hosts
        for b in other.hosts
    )


def _place(header: str) -> str:
    """Servers that hand headers to programs take an underscore for a hyphen."""
    return header.strip().lower().replace("_", "-")


def _name(host: str) -> str:
    return host.partition(":")[0]


def _port(host: str) -> int:
    return int(host.partition(":")[2] or PORT)


def _like(pattern: str, name: str) -> bool:
    """Whether ``name``, which may be a pattern itself, is all within ``pattern``."""
    if pattern.startswith("*."):
        return name == pattern or name.endswith(pattern[1:])
    return name == pattern
