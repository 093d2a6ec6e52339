"""Pipes through which the kernel moves bytes between two sockets: Python copies none of them.

splice(2) needs a pipe on one side. A long transfer takes half the time that recv and send take.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import ClassVar

from serai.gate.share import LARGE_PIECE, Share

# The kernel may keep up to 2 MiB of packets for the 64 pieces that a full pipe holds, if somebody
# makes them very small. So only transfers in large pieces get a pipe, and few of them.
EACH_SESSION = 8
ALL = 64


class Pipe:
    """A pipe of one transfer; ``held`` is how many bytes are in it."""

    _open: ClassVar[int] = 0

    def __init__(self, share: Share) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._share = share
        self.held = 0
        share.pipes += 1
        Pipe._open += 1
        # Refused to a user who has many pipes (pipe(7)): then it is smaller.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, LARGE_PIECE)

    @classmethod
    def take(cls, share: Share) -> Pipe | None:
        """A pipe for a transfer of this session; None if it, or all together, have enough."""
        if share.pipes >= EACH_SESSION or cls._open >= ALL:
            return None
        try:
            return cls(share)
        except OSError:  # no descriptors are left
            return None

    def fill(self, source: socket.socket, most: int) -> int:
        """Move at most so many bytes in; returns how many. The pipe must be empty.

        0 or BlockingIOError: recv may get something all the same. Raises OSError.
        """
        self.held = os.splice(source.fileno(), self._in, most)
        return self.held

    def drain(self, sink: socket.socket) -> int:
        """Move bytes on, as many as ``sink`` takes; returns how many. Raises OSError."""
        size = os.splice(self._out, sink.fileno(), self.held)
        self.held -= size
        return size

    def close(self) -> None:
        """Give it back, with all that is in it."""
        os.close(self._in)
        os.close(self._out)
        self._share.pipes -= 1
        Pipe._open -= 1
