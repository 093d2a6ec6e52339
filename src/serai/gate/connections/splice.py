"""Pipes through which the kernel moves bytes between two sockets: Python copies none of them.

splice(2) needs a pipe on one side. A long transfer takes half the time that recv and send take.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import ClassVar

from serai.gate.connections.share import Share

# A pipe's slot holds a page of bytes, or a packet. The kernel may keep up to 32 KiB for one, if
# somebody makes the packets very small. So only transfers in large pieces get a pipe, and there is
# a limit to all slots of a session, and of all sessions.
SLOTS = 64
LARGE = 256
EACH_SESSION = 512
ALL = 4096
_PAGE = 4096  # bytes
ROOMY = 4
_UNSENT = 512 << 10  # bytes


class Pipe:
    """A pipe of one transfer: ``size`` bytes fit in, ``held`` are in it."""

    _slots: ClassVar[int] = 0  # of all that are open

    def __init__(self, share: Share, slots: int) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._share = share
        self._taken = slots
        self.held = 0
        share.slots += slots
        Pipe._slots += slots
        self.size = SLOTS // 4 * _PAGE  # as it is made
        # Refused to a user who has many pipes (pipe(7)): then it stays smaller.
        with contextlib.suppress(OSError):
            self.size = fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, slots * _PAGE)

    @classmethod
    def take(cls, share: Share) -> Pipe | None:
        """A pipe for a transfer of this session; None if it, or all together, have enough.

        A session that is alone has a large one for its first transfer.
        """
        slots = LARGE if share.alone and not share.slots else SLOTS
        if share.slots + slots > EACH_SESSION or cls._slots + slots > ALL:
            return None
        try:
            return cls(share, slots)
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
        self._share.slots -= self._taken
        Pipe._slots -= self._taken


def make_room(sink: socket.socket, share: Share) -> None:
    """Let the kernel keep more for a client than the 208 KiB that a Unix socket may have unread.

    With so little the gate and the bridge's socat wait for each other after each piece. It gives
    twice what it is asked for, but no more than twice net.core.wmem_max (socket(7)). What a client
    does not read stays as long as its connection, so a session has only a few of those.
    """
    if sink.family != socket.AF_UNIX or sink in share.roomy or len(share.roomy) >= ROOMY:
        return
    with contextlib.suppress(OSError):
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)
        share.roomy.add(sink)
