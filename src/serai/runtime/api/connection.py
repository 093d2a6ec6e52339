"""One client of the control socket: lines in, with descriptors; lines out, with back-pressure."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from serai.runtime.api import rpc
from serai.runtime.errors import TOO_LARGE, SeraiError

# socket(7); Python has no name for it. The group list that the peer had when it connected.
SO_PEERGROUPS = 59
MAX_DESCRIPTORS = 3
CHUNK = 65536
# Above the first a stream waits; a client that lets the second pile up is dropped.
HIGH_WATER = 256 << 10
MAX_QUEUED = 16 << 20


class Connection:
    """Reads until the client hangs up; ``received`` gets each line, ``lost`` is called once."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Connection, bytes], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self.uid = credentials(sock)[1]
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.subscribed = False
        self._sock = sock
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._queued = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._loop = loop
        sock.setblocking(False)
        loop.add_reader(sock, self._read)

    def take_descriptors(self) -> list[int]:
        """The descriptors that came with the current message; now the caller's to close."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def send(self, line: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a line now or as soon as the client reads; it is dropped if it never does."""
        if self.gone.done():
            close(descriptors)
            return
        self._queue.append((line, descriptors))
        self._queued += len(line)
        self._write()
        if self._queued > MAX_QUEUED:
            self.close()
        elif self._queued > HIGH_WATER:
            self._drained.clear()

    async def drained(self) -> None:
        """Wait until the client has read enough of what was sent; returns too when it is gone."""
        await self._drained.wait()

    def close(self) -> None:
        """Drop the client."""
        if self.gone.done():
            return
        self.gone.set_result(None)
        self._drained.set()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        close(self.take_descriptors())
        for _, descriptors in self._queue:
            close(descriptors)
        self._queue.clear()
        self._queued = 0  # what is not sent keeps nobody waiting
        self._sock.close()
        self._lost(self)

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                CHUNK, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors += numbers
        if not data or flags & socket.MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
            self.close()
            return
        self._buffer += data
        self._split()

    def _split(self) -> None:
        while not self.gone.done():
            end = self._buffer.find(b"\n")
            if (end if end >= 0 else len(self._buffer)) > rpc.MAX_LINE:
                problem = SeraiError(f"a message has at most {rpc.MAX_LINE} bytes", code=TOO_LARGE)
                self.send(rpc.error(None, problem))
                self.close()
                return
            if end < 0:
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line.strip():
                self._received(self, line)
            # Descriptors go with the message they came with, or with none.
            close(self.take_descriptors())

    def _write(self) -> None:
        while self._queue:
            line, descriptors = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                sent = self._sock.sendmsg([line], rights if descriptors else [])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError:
                self.close()
                return
            close(descriptors)
            self._queued -= sent
            if sent < len(line):
                self._queue[0] = (line[sent:], ())
            else:
                self._queue.popleft()
            if self._queued <= HIGH_WATER:
                self._drained.set()
        self._loop.remove_writer(self._sock)


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """PID, UID and GID of the process at the other end when it connected: unix(7)."""
    size = struct.calcsize("iII")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("iII", raw)
    return pid, uid, gid


def groups(sock: socket.socket) -> set[int]:
    """The peer's supplementary groups when it connected."""
    found = array.array("I")
    found.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024))
    return set(found)


def close(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
