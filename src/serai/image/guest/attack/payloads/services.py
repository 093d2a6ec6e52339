"""Connects to Unix sockets, by path, by a descriptor of the path and by an abstract name.

Prints those of its arguments that it reached; @NAME is an abstract one.
"""

import contextlib
import os
import socket
import sys

for address in sys.argv[1:]:
    ways = [address.replace("@", "\0") if address[0] == "@" else address]
    with contextlib.suppress(OSError):
        ways.append(f"/proc/self/fd/{os.open(address, os.O_PATH)}")
    for way in ways:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX, kind).connect(way)
                print(address)
