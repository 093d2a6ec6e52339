"""Hands the gate descriptors of connections that take long to close, and says which it took."""

import os
import socket
import struct
import time

SECONDS, MANY = 5, 8
kept = []
for _ in range(MANY):
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    kept += [server, server.accept()[0]]
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, SECONDS))
    try:
        gate = socket.socket(socket.AF_UNIX)
        gate.connect("/run/serai/gate/http.sock")
    except OSError:
        continue
    kept.append(gate)
    # Who ends does not linger: so the gate's descriptor is the last one.
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        socket.send_fds(gate, [b"G"], [client.fileno()])
        os._exit(0)
    client.close()
    os.waitpid(child, 0)
    print("handed over", flush=True)
time.sleep(1 if len(kept) == 2 * MANY else SECONDS * MANY)
