"""Handshakes in memory, and programs that get a page from a host at a port of this machine."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

PEM = Encoding.PEM
PEERS = Path(__file__).parent / "peers"
REQUEST = "GET / HTTP/1.1\r\n\r\n"
HELLO = "hello from the server"
PAGE = f"HTTP/1.1 200 OK\r\nContent-Length: {len(HELLO)}\r\nConnection: close\r\n\r\n{HELLO}"


def shaken(
    client: ssl.SSLContext, server: ssl.SSLContext, host: str, *, ends: bool = False
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake; ``ends``: and after a proper end."""
    client.set_alpn_protocols(["h2", "http/1.1"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname=host)
    other = server.wrap_bio(there, back, server_side=True)
    for step in ("do_handshake", "unwrap") if ends else ("do_handshake",):
        for _ in range(4):
            for each in (one, other):
                with suppress(ssl.SSLWantReadError):
                    getattr(each, step)()
    return one, other


def verified(
    roots: bytes,
    server: ssl.SSLContext,
    host: str,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> ssl.SSLObject:
    """A client that trusts ``roots`` alone and as strictly as Python 3.13 does."""
    context = ssl.create_default_context(cadata=roots.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.maximum_version = newest
    return shaken(context, server, host)[0]


@contextmanager
def serving(context: Callable[[str], ssl.SSLContext]) -> Iterator[int]:
    """A server that is the host a client asks for; its port."""

    def named(tls: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> None:
        tls.context = context(host or "nobody.test")

    start = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    start.sni_callback = named
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, start))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, suppress(OSError):
            client.settimeout(10)
            with context.wrap_socket(client, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(PAGE.encode())
                with suppress(OSError):
                    tls.unwrap()


NODE = """
const [ca, host, port] = process.argv.slice(1);
const trusted = require('fs').readFileSync(ca);
require('https').get({ host: '127.0.0.1', port, servername: host, ca: trusted, headers: { host } },
  (a) => a.pipe(process.stdout)).on('error', (e) => console.error(e));
"""
CLIENTS: dict[str, tuple[str, list[str]]] = {
    "curl": (
        "curl",
        ["-sS", "--cacert", "@CA", "--connect-to", "::127.0.0.1:@PORT", "https://@HOST/"],
    ),
    "node": ("node", ["-e", NODE, "@CA", "@HOST", "@PORT"]),
    "gnutls-cli": (
        "gnutls-cli",
        [
            *("--x509cafile", "@CA", "--sni-hostname", "@HOST", "--verify-hostname", "@HOST"),
            *("--port", "@PORT", "127.0.0.1"),
        ],
    ),
    "go": ("go", ["run", str(PEERS / "get_as.go"), "@CA", "@HOST", "@PORT"]),
}
"""By name: the program, and its arguments."""


def command(name: str, ca: Path, host: str, port: int) -> list[str]:
    """The command of a client that trusts ``ca`` alone; on stdin it gets a request."""
    program, arguments = CLIENTS[name]
    for word, value in {"@CA": str(ca), "@HOST": host, "@PORT": str(port)}.items():
        arguments = [each.replace(word, value) for each in arguments]
    return [shutil.which(program) or program, *arguments]
