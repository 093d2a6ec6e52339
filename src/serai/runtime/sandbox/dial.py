"""A connection to a port of a session, made from outside.

Nothing of ours enters the session. A socket belongs to the network in which it was made, wherever
its descriptor is used later. So a thread of the daemon joins the session's network and no other
namespace of it, makes the sockets, and ends. It runs no code of the session's. No process inside
can see, trace or stop it, since it is in no PID namespace of theirs.

A payload may let a connection wait as long as it likes, so nothing waits here but the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from serai.common import linux
from serai.common.errors import REFUSED, TIMEOUT, WRONG_STATE, SeraiError

PATIENCE = 10.0
"""Seconds after which a port that neither accepts nor refuses is given up."""
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


async def dial(pidfd: int, port: int) -> socket.socket:
    """Connect to ``port`` in the network of a process, on 127.0.0.1 or else on [::1].

    ``pidfd`` is used before anything is waited for. Raises SeraiError.
    """
    try:
        ends = sockets(pidfd)
    except OSError as error:
        raise SeraiError(f"the session has ended: {error.strerror}", code=WRONG_STATE) from None
    with contextlib.ExitStack() as stack:
        for end in ends:
            stack.callback(end.close)
        for end in ends:
            try:
                await asyncio.wait_for(_connect(end, port), PATIENCE)
            except asyncio.TimeoutError:
                text = f"port {port} did not accept a connection in {PATIENCE:g} s"
                raise SeraiError(text, code=TIMEOUT) from None
            except OSError:
                continue
            return end.dup()
    hint = "start the server in the session; 127.0.0.1 and [::1] were tried"
    raise SeraiError(f"nothing listens on port {port} of the session", hint, REFUSED)


def sockets(pidfd: int) -> list[socket.socket]:
    """Sockets of IPv4 and, where there is any, IPv6 in the network of a process. Raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            linux.join(pidfd, linux.NETWORK_NAMESPACE)
            for family in HOSTS:
                made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError as error:
            failed.append(error)

    # A thread of its own: what joined a network must never serve for anything else.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise failed[0]
    return made


async def _connect(end: socket.socket, port: int) -> None:
    await asyncio.get_running_loop().sock_connect(end, (HOSTS[end.family], port))
    if end.getsockname() == end.getpeername():
        # TCP lets a socket connect to itself, if the kernel chose this very port for it.
        raise ConnectionRefusedError
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
