"""What a client and a server of SOCKS5 say to each other; RFC 1928."""

from __future__ import annotations

NOT_ALLOWED, UNREACHABLE, REFUSED = 2, 3, 5
OPEN = b"\x05\x00\x00\x01" + bytes(6)


def socks_request(host: bytes, port: int, command: int = 1, kind: int = 3) -> bytes:
    """``kind`` is 1 for an IPv4 address, 3 for a name, 4 for an IPv6 address."""
    place = bytes([len(host)]) + host if kind == 3 else host
    return bytes([5, command, 0, kind]) + place + port.to_bytes(2, "big")
