"""Origin servers for tests of the gate: one handler a connection, at any port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

Handler = Callable[[socket.socket], None]
DEADLINE = 30.0
Head = tuple[str, list[tuple[str, str]]]


@dataclass
class Origin:
    """A running server; ``clients`` are the connections that it had, and ``faults`` its own."""

    port: int
    clients: list[socket.socket] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(handler: Handler, listener: socket.socket | None = None) -> Iterator[Origin]:
    """Serve each connection with ``handler`` in a thread; what it raises fails the test."""
    listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
    origin = Origin(listener.getsockname()[1] if listener.family != socket.AF_UNIX else 0)
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        client.settimeout(DEADLINE)
        with client:
            try:
                handler(client)
            except (ConnectionError, EOFError):
                pass  # the other side has ended it
            except BaseException as error:
                origin.faults.append(error)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                origin.clients.append(client)
                threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield origin
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(DEADLINE)
        for client in origin.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(DEADLINE)
    assert not origin.faults, origin.faults


def echo(client: socket.socket) -> None:
    """Send back what comes, and the end too."""
    while data := client.recv(65536):
        client.sendall(data)


def reset(client: socket.socket) -> None:
    """Break the connection, not end it."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def read_head(stream: BinaryIO) -> Head:
    """A request's first line and headers. Raises EOFError."""
    lines = []
    while (line := stream.readline()) != b"\r\n":
        if not line:
            raise EOFError
        assert line.endswith(b"\r\n"), line
        lines.append(line[:-2].decode("latin-1"))
    headers = [line.partition(": ")[::2] for line in lines[1:]]
    return lines[0], [(name, value) for name, value in headers]


def read_body(stream: BinaryIO, head: Head) -> bytes:
    """A request's body; only by the framing that is unmistakable."""
    headers = {name.lower(): value for name, value in head[1]}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            assert stream.readline() == b"\r\n"
        assert stream.readline() == b"\r\n", "trailers"
        return body
    body = stream.read(int(headers.get("content-length", "0")))
    if len(body) < int(headers.get("content-length", "0")):
        raise EOFError
    return body


def respond(client: socket.socket, status: str, *headers: str, body: bytes = b"") -> None:
    """A response exactly as given."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, ""))
    client.sendall(head.encode("latin-1") + body)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def web(client: socket.socket) -> None:
    """A web server that does, by path, what servers do."""
    stream = client.makefile("rb")
    head = read_head(stream)
    path, _, query = head[0].split(" ")[1].partition("?")
    if path == "/early":
        # It has seen enough and does not read the rest.
        return respond(client, "413 Too Much", "Content-Length: 3", body=b"no\n")
    if path == "/continue":
        assert ("Expect", "100-continue") in head[1]
        respond(client, "100 Continue")
    body = read_body(stream, head)
    if path == "/big":
        data = bytes(range(256)) * (int(query) // 256)
        respond(client, "200 OK", f"Content-Length: {len(data)}", body=data)
    elif path == "/socket":
        respond(client, "101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket")
        echo(client)
    elif path in RAW:
        client.sendall(RAW[path].replace(b"\n", b"\r\n"))
    else:
        _report(client, head, body)
    return None


# What the server sends at a path, byte for byte but for the ends of lines; then it hangs up.
RAW = {
    "/chunked": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"
    b"3\none\n129\n" + b"two" * 99 + b"\n5\nthree\n0\nX-Trailer: yes\n\n",
    "/close": b"HTTP/1.1 200 OK\nContent-Type: text/plain\n\nto the end",
    "/204": b"HTTP/1.1 204 No Content\nX-Kept: yes\n\n",
    "/304": b"HTTP/1.1 304 Not Modified\nETag: 1\nContent-Length: 1000\n\n",
    "/404": b"HTTP/1.1 404 Nothing Here\ncontent-LENGTH: 4\nX-a: 1\nx-A: 2\n\ngone",
    "/hints": b"HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "/hang-up": b"",
    "/garbage": b"220 mail.example.com ESMTP\n",
    "/half": b"HTTP/1.1 200 OK\nContent-Length: 100\n\nonly this",
    "/space": b"HTTP/1.1 200 OK\nContent Type: text/html\nDate: now\n\nok",
    "/slash": b"HTTP/1.1 200 OK\nget-ban/forum.php: no support\nDate: now\n\nok",
    "/nocolon": b"HTTP/1.1 200 OK\nTrying to read config\nDate: now\n\nok",
    "/colon": b"HTTP/1.1 200 OK\nServer : x\nDate: now\n\nok",
    "/identity": b"HTTP/1.1 200 OK\nTransfer-Encoding: identity\nDate: now\n\nok",
    "/length": b"HTTP/1.1 200 OK\nContent-Length : 2\n\nok",
    "/bighead": b"HTTP/1.1 200 OK\n" + b"X: %s\n" % (b"y" * 700) * 100 + b"\nok",
    "/icy": b"ICY 200 OK\n\nok",
    "/half-chunked": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nonly \n5\nth",
}


def _report(client: socket.socket, head: Head, body: bytes) -> None:
    """Say what was asked for, with headers that a proxy must not pass on."""
    seen = {"line": head[0], "headers": head[1], "length": len(body), "digest": digest(body)}
    data = json.dumps(seen).encode()
    respond(
        client,
        "200 OK",
        f"Content-Length: {len(data)}",
        "Connection: X-Hop, keep-alive",
        "X-Hop: must not pass",
        "Proxy-Authenticate: Basic",
        "Keep-Alive: timeout=5",
        "X-End: may pass",
        body=b"" if head[0].startswith("HEAD ") else data,
    )
