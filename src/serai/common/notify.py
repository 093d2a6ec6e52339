"""Tells systemd how a daemon is; both daemons do."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send ``state``, as sd_notify(3) has it; does nothing where nobody wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        name = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(state.encode(), name)
