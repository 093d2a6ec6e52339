"""The bridge: what leads from two ports inside a sandbox to the gate's two sockets.

The only home of these facts. sessiond tells them to the program ``bridge`` and to payloads.
"""

from __future__ import annotations

HTTP_PORT, SOCKS_PORT = 3128, 1080
GATE = "/run/serai/gate"
"""Where the gate's sockets are inside."""

SOCKETS = {HTTP_PORT: f"{GATE}/http.sock", SOCKS_PORT: f"{GATE}/socks.sock"}
PORTS = frozenset(SOCKETS)
VARIABLE = "SERAI_BRIDGE"


def variable() -> str:
    """What the program ``bridge`` finds in its environment: PORT:SOCKET, twice."""
    return " ".join(f"{port}:{path}" for port, path in SOCKETS.items())
