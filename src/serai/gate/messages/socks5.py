"""The messages of SOCKS5 (RFC 1928), as a server reads and writes them. Pure.

A reading function gets all bytes that have come so far. It returns the length of the message and
its meaning, or None if the message is not complete. A message has at most 262 bytes, and so has a
buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

VERSION = 5

# Methods of authentication (section 3), and the two answers to a greeting.
NO_AUTHENTICATION = 0x00
NO_ACCEPTABLE_METHOD = 0xFF
CHOSEN = bytes((VERSION, NO_AUTHENTICATION))
NO_METHOD = bytes((VERSION, NO_ACCEPTABLE_METHOD))

# Commands (section 4).
CONNECT = 1
BIND = 2
UDP_ASSOCIATE = 3

# Types of address (section 5).
_IPV4 = 1
_NAME = 3
_IPV6 = 4

# Codes of a reply (section 6).
SUCCEEDED = 0
FAILURE = 1
NOT_ALLOWED = 2
NETWORK_UNREACHABLE = 3
HOST_UNREACHABLE = 4
REFUSED = 5
TTL_EXPIRED = 6
COMMAND_NOT_SUPPORTED = 7
ADDRESS_TYPE_NOT_SUPPORTED = 8

# Of VER CMD RSV ATYP, and of the port.
_FIXED = 4
_PORT = 2


class BadMessage(ValueError):  # noqa: N818  # as hosts and heads name what is bad
    """The message is not SOCKS5. ``code`` is the reply, if the message was a request."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    """A request. ``command`` may be unknown, and ``port`` is 0 except for CONNECT.

    ``host`` is the text of an address, or a name exactly as the client spells it: hosts.host reads
    both, because a client may also send an address as a name.
    """

    command: int
    host: str
    port: int


def greeting(data: bytes | bytearray) -> tuple[int, bytes] | None:
    """The methods of authentication that the client offers, a byte each. Raises BadMessage."""
    if not data:
        return None
    _check_version(data[0])
    if len(data) < 2:  # noqa: PLR2004  # VER NMETHODS
        return None
    end = 2 + data[1]
    return (end, bytes(data[2:end])) if len(data) >= end else None


def request(data: bytes | bytearray) -> tuple[int, Request] | None:
    """The client's request. Raises BadMessage as soon as it cannot be one."""
    if data:
        _check_version(data[0])
    if len(data) > 2 and data[2] != 0:  # noqa: PLR2004  # RSV
        raise BadMessage(f"the reserved byte of the request is {data[2]}, not 0")
    if len(data) < _FIXED:
        return None
    kind, start, length = data[3], _FIXED, {_IPV4: 4, _IPV6: 16}.get(data[3])
    if kind == _NAME:
        if len(data) == _FIXED:
            return None
        start, length = _FIXED + 1, data[_FIXED]
        if length == 0:
            raise BadMessage("the name in the request is empty")
    if length is None:
        raise BadMessage(f"there is no address of type {kind}", ADDRESS_TYPE_NOT_SUPPORTED)
    end = start + length
    if len(data) < end + _PORT:
        return None
    host, port = bytes(data[start:end]), int.from_bytes(data[end : end + _PORT], "big")
    if port == 0 and data[1] == CONNECT:
        raise BadMessage("there is no port 0 to connect to")
    return end + _PORT, Request(data[1], _host(kind, host), port)


def reply(code: int) -> bytes:
    """The answer to a request. It does not disclose the gate's own address: 0.0.0.0:0."""
    return bytes((VERSION, code, 0, _IPV4)) + bytes(4 + _PORT)


def _check_version(version: int) -> None:
    if version == VERSION:
        return
    if chr(version).isascii() and chr(version).isalpha():
        raise BadMessage("this is the SOCKS5 port and the client seems to speak HTTP")
    raise BadMessage(f"the client speaks version {version} of SOCKS, not 5")


def _host(kind: int, raw: bytes) -> str:
    if kind != _NAME:
        return str(ip_address(raw))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadMessage(f"the name {raw!a} is not UTF-8") from error
