"""Prints how the gate answers a small request."""

import socket

with socket.create_connection(("127.0.0.1", 3128), 60) as sock:
    sock.sendall(b"GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n")
    print(sock.recv(100).decode(errors="replace"))
