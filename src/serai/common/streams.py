"""A TCP connection whose bytes go as messages over somebody else's connection.

Both ends of a forward have one for each TCP connection: the client's leads to a program there, the
daemon's to a port of a session. Each has a *window*: so many bytes may be on their way to it until
it says that it has passed some on. Whoever would send more waits, alone.

It works by callbacks of the event loop. Tasks would cost more than a small request does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Any

from serai.common.errors import TOO_LARGE, SeraiError
from serai.common.sockets import reset_when_closed

WINDOW = 256 << 10
"""Bytes that may be on their way in one direction."""
CHUNK = 32 << 10


class PortStream:
    """One end, from ``begin`` on. What comes before is kept for it."""

    def __init__(
        self,
        tell: Callable[..., None],
        ended: Callable[[bool], None],
        drained: asyncio.Event,
        first: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        """``tell`` sends ("data", data=, eof=) and ("taken", bytes=) to the other end.

        ``ended`` is called once, unless it is dropped: with True if either end broke. While
        ``drained`` is not set nothing more is read, because the way to the other end is full.
        ``first`` gets what has come from the socket until it returns what is to go instead.
        """
        self.lossy = False
        """Whether the socket has refused bytes."""
        self._tell = tell
        self._ended = ended
        self._first = first
        self._start = b""  # what ``first`` has got
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._end: socket.socket | None = None
        self._window = WINDOW  # bytes that the other end still takes
        self._reading = False
        self._read_all = False
        self._input = bytearray()
        self._owed = 0  # bytes from the other end that it has not been told of
        self._passed = 0  # of those, how many the socket has taken
        self._last = False  # whether no more input comes
        self._blocked = False
        self._wrote_all = False
        self._broke = False
        self._reset_after = False
        self._waiting: asyncio.Task[Any] | None = None
        self._done = False

    def begin(self, end: socket.socket) -> None:
        """Carry between the other end and a connected socket, from now on its owner."""
        if self._done:
            _close(end, reset=True)
            return
        end.setblocking(False)
        self._end = end
        self._watch()
        self._write()

    def feed(self, data: bytes, *, eof: bool) -> None:
        """Take what the other end sends. Raises SeraiError if that is more than it may."""
        if self._owed + len(data) > WINDOW or self._last:
            raise SeraiError(
                f"at most {WINDOW} bytes are on their way, and none after the last", code=TOO_LARGE
            )
        self._owed += len(data)
        self._last = eof
        if not self._wrote_all:
            self._input += data
            self._write()

    def grant(self, size: int) -> None:
        """The other end has passed on so many bytes. Raises ValueError if that is no number."""
        if not isinstance(size, int) or size < 0:
            raise ValueError(size)
        self._window = min(self._window + size, WINDOW)
        self._watch()

    def finish(self, *, reset: bool) -> None:
        """The other end is gone: pass on what it has sent, and end as it did."""
        self._last = self._read_all = True
        self._reset_after = reset
        self._unwatch()
        self._write()

    def drop(self) -> None:
        """End it at once, by a reset."""
        self._release(reset=True)

    def _watch(self) -> None:
        """Read, if the other end takes anything."""
        if self._end is None or self._reading or self._read_all or not self._window:
            return
        if self._drained.is_set():
            self._reading = True
            self._loop.add_reader(self._end, self._read)
        elif self._waiting is None:
            self._waiting = self._loop.create_task(self._drained.wait())
            self._waiting.add_done_callback(self._unclogged)

    def _unclogged(self, _: object) -> None:
        self._waiting = None
        self._watch()

    def _unwatch(self) -> None:
        if self._reading and self._end is not None:
            self._reading = False
            self._loop.remove_reader(self._end)

    def _read(self) -> None:
        """Pass on a piece; one in each turn of the loop, so that others have theirs."""
        assert self._end is not None  # noqa: S101  # else nobody watches
        try:
            data = self._end.recv(min(CHUNK, self._window))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._over(broke=True)
            return
        if not data and self._broke:
            self._over(broke=True)
            return
        self._read_all = not data
        self._came(data)
        if self._read_all or not self._window or not self._drained.is_set():
            self._unwatch()
            self._watch()
            self._check()

    def _came(self, data: bytes) -> None:
        if self._first is not None:
            self._start += data
            start = self._start if not data else self._first(self._start)
            if start is None:
                return
            self._first = None
            if start:
                self._send(start)
            if data:
                return
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._window -= len(data)
        self._tell("data", data=base64.b64encode(data).decode(), eof=not data)

    def _write(self) -> None:
        """Give the socket what it takes of the input."""
        if self._end is None or self._wrote_all:
            return
        try:
            while self._input:
                size = self._end.send(self._input)
                del self._input[:size]
                self._passed += size
        except (BlockingIOError, InterruptedError):
            self._block(blocked=True)
        except OSError as error:
            # It takes no more. What it wrote before is still read. After a reset, which only the
            # first call is told of, recv(2) says that it has ended.
            self.lossy = self._wrote_all = True
            self._broke = error.errno == errno.ECONNRESET
            self._input.clear()
        if not self._input:
            self._block(blocked=False)
            if self._last and not self._wrote_all:
                self._wrote_all = True
                if not self._reset_after:
                    with contextlib.suppress(OSError):
                        self._end.shutdown(socket.SHUT_WR)
        if self._passed >= WINDOW // 4 and not self._last:
            self._owed -= self._passed
            self._tell("taken", bytes=self._passed)
            self._passed = 0
        self._check()

    def _block(self, *, blocked: bool) -> None:
        if blocked != self._blocked and self._end is not None:
            self._blocked = blocked
            if blocked:
                self._loop.add_writer(self._end, self._write)
            else:
                self._loop.remove_writer(self._end)

    def _check(self) -> None:
        if self._read_all and self._wrote_all:
            self._over(broke=self._reset_after)

    def _over(self, *, broke: bool) -> None:
        if not self._done:
            self._release(reset=broke)
            self._ended(broke)

    def _release(self, *, reset: bool) -> None:
        self._done = self._read_all = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._end is not None:
            self._unwatch()
            self._block(blocked=False)
            _close(self._end, reset=reset)
            self._end = None
            self._wrote_all = True


def _close(end: socket.socket, *, reset: bool) -> None:
    with end, contextlib.suppress(OSError):
        if reset:
            reset_when_closed(end)
