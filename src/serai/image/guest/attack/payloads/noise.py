"""Says at random changed requests to the gate; the argument is the seed."""

import contextlib
import random
import socket
import sys

HTTP = b"GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n"
SOCKS = b"\x05\x01\x00\x05\x01\x00\x03\x01x\x00P"

dice = random.Random(int(sys.argv[1]))
for _ in range(400):
    port, message = dice.choice(((3128, HTTP), (1080, SOCKS), (1080, HTTP)))
    data = bytearray(message)
    for _ in range(dice.randrange(4)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(0.05)
        sock.sendall(data)
        sock.recv(4096)
