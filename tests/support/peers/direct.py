"""Every way past the gate that needs no privilege; prints as JSON how each one fails.

The arguments are paths of sockets that are not this session's.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUTSIDE, ORIGIN, SINK = "192.0.2.1", "127.0.0.10", 9999
# "origin.test", type A, as RFC 1035 has it.
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06origin\x04test\x00\x00\x01\x00\x01"


def failure(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except socket.gaierror as error:
        return f"gaierror: {error.strerror}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "worked"


def datagram(place: str, port: int, family: int = socket.AF_INET) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((place, port))
        sock.send(QUERY)
        sock.recv(512)


def stream(place: str, port: int) -> None:
    socket.create_connection((place, port), timeout=1).close()


def servers() -> list[str]:
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver ")]


print(
    json.dumps(
        {
            "name": failure(lambda: socket.getaddrinfo("origin.test", 80)),
            "dns": [failure(functools.partial(datagram, each, 53)) for each in servers()],
            "udp outside": failure(lambda: datagram(OUTSIDE, 53)),
            "udp broadcast": failure(lambda: datagram("255.255.255.255", SINK)),
            "udp over IPv6": failure(lambda: datagram("2001:db8::1", 53, socket.AF_INET6)),
            "udp to the machine": failure(lambda: datagram(ORIGIN, SINK)),
            "udp to a name server": failure(lambda: datagram("127.0.0.1", 53)),
            "tcp outside": failure(lambda: stream(OUTSIDE, 80)),
            "tcp to the machine": failure(lambda: stream(ORIGIN, SINK)),
            "tcp to the origin": failure(lambda: stream(ORIGIN, 80)),
            "raw": failure(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
            "unix": failure(lambda: socket.socket(socket.AF_UNIX)),
            "folder": failure(lambda: os.listdir("/run/serai/gate")),
            "other": [failure(functools.partial(os.stat, each)) for each in sys.argv[1:]],
        }
    )
)
