"""``serai stdio``: the control socket on standard input and output, for a client that ssh brings.

Nothing is read or changed on the way. What ssh leads to ends when either end does, so a client that
is killed hangs up here too. It starts with each connection, so it imports next to nothing.

With ``--from-host`` both are a connection that systemd accepted. Nothing goes over it unless the
host that runs this VM made it, by vsock(7).
"""

from __future__ import annotations

import _socket
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
FROM_HOST = "--from-host"
HOST = 2
"""The CID of the host, which no one else can have: VMADDR_CID_HOST.

Who connects from within the VM has 1, a VM in this VM has one from 3 on.
"""


def main(arguments: list[str]) -> int:
    """Carry bytes both ways until one end is closed; returns the exit status."""
    try:
        if arguments not in ([], [FROM_HOST]):
            raise Failure(f"serai stdio takes no arguments but {FROM_HOST}", 2)
        if arguments and (why := refusal(0)):
            raise Failure(f"this connection is refused: {why}", 1)
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


def refusal(descriptor: int) -> str:
    """Why this is no connection of the host's; empty if it is one."""
    try:
        end = _socket.socket(fileno=posix.dup(descriptor))
    except OSError:
        return "standard input is no socket"
    try:
        if end.family != _socket.AF_VSOCK:
            return "it has not come by vsock"
        cid = end.getpeername()[0]
    except OSError as error:
        return f"where it is from cannot be seen: {error.strerror}"
    finally:
        end.close()
    return "" if cid == HOST else f"it is from CID {cid}, not from the host"


def _to_sessiond(end: socket) -> None:
    status = 0
    try:
        while data := posix.read(0, CHUNK):
            end.sendall(data)
    except OSError:
        status = 1
    # At once, whatever the other direction waits for: nobody is there to read it.
    posix._exit(status)
