"""``serai stdio``: the control socket on standard input and output, for a client that ssh brings.

Nothing is read or changed on the way. What ssh leads to ends when either end does, so a client that
is killed hangs up here too. It starts with each connection, so it imports next to nothing.
"""

from __future__ import annotations

import _thread
import posix
import sys

from serai.common.printing import clean
from serai.common.stdio import write_all
from serai.runtime.cli.exec_core import Channel, Failure, control

TYPE_CHECKING = False  # see serai.runtime.cli.exec_core
if TYPE_CHECKING:
    from _socket import socket

CHUNK = 65536


def main(arguments: list[str]) -> int:
    """Carry bytes both ways until one end is closed; returns the exit status."""
    try:
        if arguments:
            raise Failure("serai stdio takes no arguments", 2)
        end = Channel(control()).socket
    except Failure as failure:
        sys.stderr.write(f"serai: {clean(str(failure))}\n")
        return failure.status
    # Two threads: a client that does not read can still send a signal.
    _thread.start_new_thread(_to_sessiond, (end,))
    try:
        while data := end.recv(CHUNK):
            write_all(1, data)
    except OSError:
        return 1
    return 0


def _to_sessiond(end: socket) -> None:
    status = 0
    try:
        while data := posix.read(0, CHUNK):
            end.sendall(data)
    except OSError:
        status = 1
    # At once, whatever the other direction waits for: nobody is there to read it.
    posix._exit(status)
