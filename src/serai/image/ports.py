"""Ports of this host's loopback that nobody listens on."""

from __future__ import annotations

import itertools
import os
import socket

HOST = "127.0.0.1"
_FIRST, _COUNT = 15000, 15000
# Processes that were started after each other begin 200 ports and more apart, and no two where the
# others' neighbours are: a port is free until who asked for it has started something there.
_BEGIN = os.getpid() * 11194 % _COUNT
_next = itertools.cycle(_FIRST + (_BEGIN + number) % _COUNT for number in range(_COUNT))


def unused(count: int, beside: int = 0) -> list[int]:
    """Free ports whose neighbours, so many further on, are free too. A process gets none twice.

    They are from a range that no client's own ports are in.
    """
    free = (port for port in _next if _free(port) and _free(port + beside))
    return list(itertools.islice(free, count))


def _free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True
