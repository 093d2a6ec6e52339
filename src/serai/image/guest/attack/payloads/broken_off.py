"""Breaks connections off, of which each could be a line in the journal."""

import contextlib
import socket
import struct

for _ in range(300):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 3128), 5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"G")
