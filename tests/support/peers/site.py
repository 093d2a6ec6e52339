"""A web site for clients: site.py FOLDER ADDRESS PORT [PEM], over TLS with a key and certificate.

The text @SITE@ in a file of JSON or TOML is where the client found the site, as registries say it.
"""

from __future__ import annotations

import io
import socket
import ssl
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Site(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


class Handler(SimpleHTTPRequestHandler):
    scheme = "http"
    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        path = path / "index.json" if (path / "index.json").exists() else path
        if path.suffix != ".json":
            return super().send_head()
        base = f"{self.scheme}://{self.headers['Host']}"
        text = path.read_text().replace("@SITE@", base).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        return io.BytesIO(text)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    folder, address, port, *pem = sys.argv[1:]
    site = Site((address, int(port)), partial(Handler, directory=folder))
    if pem:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem[0])
        site.socket = context.wrap_socket(
            site.socket, server_side=True, do_handshake_on_connect=False
        )
        Handler.scheme = "https"
    print("serves", flush=True)
    site.serve_forever()
