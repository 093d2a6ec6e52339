"""Normalises names and addresses, so that no spelling evades a rule.

Pure. The gate compares names, looks them up and logs them only in the form that ``host`` returns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

import idna

Address: TypeAlias = IPv4Address | IPv6Address
Host: TypeAlias = str | IPv4Address | IPv6Address

_LONGEST_TEXT = 255  # idna before 3.7 takes quadratic time over a long one (CVE-2024-3651)
_LONGEST_NAME = 253  # RFC 1035, section 2.3.4: 255 octets on the wire
_LONGEST_LABEL = 63
_MOST_SHOWN = 80
_LABEL = re.compile(r"[a-z0-9_-]+")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_C_NUMBER = re.compile(r"0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*")
_PORT = re.compile(r"[0-9]{1,5}")
_BRACKETED = re.compile(r"(\[[^\[\]]*\])(?::(.*))?", re.DOTALL)


class BadHost(ValueError):  # noqa: N818  # as heads and socks5 name what is bad
    """Not a host name or an address, or a missing port. The text is one line."""


@dataclass(frozen=True)
class Target:
    """The target of a connection: a canonical host and a port, 1..65535."""

    host: Host
    port: int

    def __str__(self) -> str:
        return f"{written(self.host)}:{self.port}"


def written(host: Host) -> str:
    """``host`` as it stands before a port: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if isinstance(host, IPv6Address) else str(host)


def unmapped(address: Address) -> Address:
    """``address`` without a zone, and the IPv4 address if it is one mapped into IPv6.

    The kernel sends IPv4 to ``::ffff:a.b.c.d`` (ipv6(7)), so it must be judged as that.
    """
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def host(text: str) -> Host:
    """``text`` normalised: an address, or a name in lower case ASCII without a trailing dot.

    A name that is not ASCII goes through UTS #46 without the transitional mappings, which maps
    every other kind of letter, digit and dot, and then through IDNA 2008 (RFC 5891).
    A text that ends in a number is an IPv4 address in a spelling that inet_aton(3) knows, or an
    error (URL Standard, "ends in a number checker"), because a resolver would take it for one.
    IPv6 may stand in brackets and has no zone. A label that is in Punycode already stays as it is.

    Raises BadHost for anything else.
    """
    if len(text) > _LONGEST_TEXT:
        raise _bad(text, f"it is longer than {_LONGEST_TEXT} characters")
    if ":" in text or text.startswith("["):
        return _ipv6(text)
    name = text.lower() if text.isascii() else _mapped(text)
    labels = name.removesuffix(".").split(".")
    for label in labels:
        if not label:
            raise _bad(text, "a label is empty")
        if len(label) > _LONGEST_LABEL:
            raise _bad(text, f"a label is longer than {_LONGEST_LABEL} characters")
    labels = [label if label.isascii() else _alabel(label, text) for label in labels]
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise _bad(text, "only letters, digits, hyphens, underscores and dots can be in a name")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(labels, text)
    name = ".".join(labels)
    if len(name) > _LONGEST_NAME:
        raise _bad(text, f"it is longer than {_LONGEST_NAME} characters")
    return name


def target(authority: str, default_port: int | None = None) -> Target:
    """The host and port in ``authority``: ``name:443``, ``192.0.2.7:80``, ``[2001:db8::1]:443``.

    Without a port it is ``default_port``. Raises BadHost for everything else, also user names
    before an ``@``, an IPv6 address without brackets, and a missing port without a default.
    """
    if "@" in authority:
        # Not quoted: what stands before the @ may be a password.
        raise BadHost("a user name or password before the host is not accepted")
    if authority.startswith("["):
        match = _BRACKETED.fullmatch(authority)
        if not match:
            raise _bad(authority, "after an IPv6 address in brackets only a port can follow")
        name, port = match[1], match[2]
    else:
        name, colon, after = authority.partition(":")
        port = after if colon else None
        if ":" in after:
            raise _bad(authority, "an IPv6 address before a port stands in brackets")
    if port is not None:
        return Target(host(name), port_number(port))
    if default_port is None:
        raise _bad(authority, "a port is missing")
    return Target(host(name), default_port)


def port_number(text: str) -> int:
    """The port that ``text`` writes in decimal digits, 1..65535; BadHost if it does not."""
    if not _PORT.fullmatch(text) or not 0 < int(text) < 1 << 16:
        raise BadHost(f"{_short(text)} is not a port, 1..65535")
    return int(text)


def _ipv6(text: str) -> Address:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" in inner:
        raise _bad(text, "an address with a zone means something on one host only")
    try:
        return unmapped(IPv6Address(inner))
    except ValueError:
        raise _bad(text, "it is not an IPv6 address") from None


def _ipv4(labels: list[str], text: str) -> IPv4Address:
    """``labels`` as inet_aton(3) reads them: the last one fills all the bytes that are left."""
    *first, last = (_number(label, text) for label in labels)
    if len(first) > 3 or any(number > 0xFF for number in first):  # noqa: PLR2004  # four bytes
        raise _bad(text, "it ends in a number but is not an IPv4 address")
    left = 4 - len(first)
    if last >= 256**left:
        raise _bad(text, "it ends in a number but is not an IPv4 address")
    return IPv4Address(bytes(first) + last.to_bytes(left, "big"))


def _number(label: str, text: str) -> int:
    """A number in C's notation: 0x before hexadecimal, 0 before octal."""
    if not _C_NUMBER.fullmatch(label):
        raise _bad(text, "it ends in a number but is not an IPv4 address")
    return int(label, 16 if label.startswith("0x") else 8 if label.startswith("0") else 10)


def _mapped(text: str) -> str:
    try:
        # STD 3's rules would only forbid the underscore: everything else is checked later anyway.
        return idna.uts46_remap(text, std3_rules=False, transitional=False).lower()
    except (ValueError, LookupError):
        raise _bad(text, "a character in it cannot be in a name") from None


def _alabel(label: str, text: str) -> str:
    try:
        return idna.alabel(label).decode("ascii")
    except (ValueError, LookupError):
        raise _bad(text, "it is not an international name by IDNA 2008") from None


def _bad(text: str, why: str) -> BadHost:
    return BadHost(f"{_short(text)} is not a host: {why}")


def _short(text: str) -> str:
    """``text`` quoted, shortened, on one line of ASCII."""
    return ascii(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")
