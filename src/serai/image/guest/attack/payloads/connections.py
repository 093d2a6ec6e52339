"""Takes as many connections of the gate as it gets, with half a request on each."""

import contextlib
import signal
import socket

held: list[socket.socket] = []
with contextlib.suppress(OSError):
    while len(held) < 3000:
        held.append(socket.create_connection(("127.0.0.1", 3128), 5))
        held[-1].sendall(b"GET http://x.example/ HTTP/1.1\r\n")

with open("at-work", "w"):
    signal.pause()
