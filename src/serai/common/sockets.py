"""What all that listens and connects here does alike, in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

PAUSE = 0.2
"""Seconds until a listener is watched again that could not accept."""


def accept(
    listener: socket.socket, watch: Callable[[], object], failed: Callable[[OSError], object]
) -> socket.socket | None:
    """The next connection of a listener that the loop watches; None if there is none.

    If it cannot be accepted ``failed`` is told why, and ``watch`` is called a moment later.
    """
    try:
        return listener.accept()[0]
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    except OSError as error:
        # No descriptor is left: trying again at once would only burn the processor.
        failed(error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(PAUSE, watch)
        return None


def connects_at_once(end: socket.socket, place: tuple[str, int] | str) -> bool:
    """Begin to connect a socket that does not block; whether it is connected. Raises OSError.

    Asked twice: a server on this host has mostly answered by then, which saves two turns of the
    loop. What is under way then is for ``loop.sock_connect``.
    """
    for _ in range(2):
        with contextlib.suppress(BlockingIOError):
            end.connect(place)
            return True
    return False


def reset_when_closed(end: socket.socket) -> None:
    """Let the other end see that the connection broke: socket(7), SO_LINGER. Raises OSError."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
