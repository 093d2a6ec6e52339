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
import errno
import os
import socket
import threading

from serai.common import linux
from serai.common.errors import REFUSED, TIMEOUT, WRONG_STATE, SeraiError
from serai.common.sockets import connects_at_once

PATIENCE = 10.0
"""Seconds after which a port that neither accepts nor refuses is given up."""
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
AHEAD = 8
"""Sockets that are made at once: a thread for each would be a third of a connection's cost."""


class Dialler:
    """Connects to a port in the network of a process, whose ``pidfd`` is its own from now on."""

    def __init__(self, pidfd: int, port: int) -> None:
        self.pidfd = pidfd
        self._port = port
        self._ahead: list[socket.socket] = []
        self._closed = False

    def close(self) -> None:
        """Dial no more."""
        self._closed = True
        os.close(self.pidfd)
        for end in self._ahead:
            end.close()
        self._ahead.clear()

    async def dial(self) -> socket.socket:
        """A connection to the port on 127.0.0.1 or else on [::1]. Raises SeraiError."""
        for family in HOSTS:
            with contextlib.suppress(OSError):
                return await self._connected(family)
        text = f"nothing listens on port {self._port} of the session"
        raise SeraiError(text, "start the server in it; 127.0.0.1 and [::1] were tried", REFUSED)

    async def _connected(self, family: int) -> socket.socket:
        end = self._socket(family)
        try:
            await self._connect(end)
        except BaseException:
            end.close()
            raise
        return end

    def _socket(self, family: int) -> socket.socket:
        """A socket in the session's network. Raises SeraiError if that is no more."""
        if self._closed:
            raise SeraiError("the forward has ended", code=WRONG_STATE)
        try:
            if family == socket.AF_INET6:
                return sockets(self.pidfd, family, 1)[0]
            if not self._ahead:
                self._ahead = sockets(self.pidfd, family, AHEAD)
            return self._ahead.pop()
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                raise
            raise SeraiError(f"the session has ended: {error.strerror}", code=WRONG_STATE) from None

    async def _connect(self, end: socket.socket) -> None:
        place = (HOSTS[end.family], self._port)
        if not connects_at_once(end, place):
            waiting = asyncio.get_running_loop().sock_connect(end, place)
            try:
                await asyncio.wait_for(waiting, PATIENCE)
            except asyncio.TimeoutError:
                text = f"port {self._port} did not accept a connection in {PATIENCE:g} s"
                raise SeraiError(text, code=TIMEOUT) from None
        if end.getsockname() == end.getpeername():
            # TCP lets a socket connect to itself, if the kernel chose this very port for it.
            raise ConnectionRefusedError
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def sockets(pidfd: int, family: int, count: int) -> list[socket.socket]:
    """So many sockets in the network of a process, or fewer. Raises OSError if there are none."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            linux.join(pidfd, linux.NETWORK_NAMESPACE)
            for _ in range(count):
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
