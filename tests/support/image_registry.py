"""A registry of images on loopback, as far as skopeo(1) needs one: it can be made to lie.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/]+)")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """What is there: blobs by digest, manifests by tag or digest, and which of these was asked."""

    def __init__(self, port: int) -> None:
        self.name = f"docker://127.0.0.1:{port}/serai/x"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.asked: list[str] = []
        # What is done for a blob in the place of sending it.
        self.instead: dict[str, Callable[[BufferedIOBase], None]] = {}

    def put(self, reference: str, manifest: bytes) -> None:
        self.manifests[reference] = self.manifests[digest(manifest)] = manifest


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    uploads: dict[str, bytes]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v2/":
            return self._answer(200)
        kind, reference = self._named(path)
        if kind == "manifests":
            self.registry.asked.append(reference)
        elif reference in self.registry.instead and self.command == "GET":
            self.send_response(200)
            self.end_headers()
            return self.registry.instead[reference](self.wfile)
        there = self.registry.manifests if kind == "manifests" else self.registry.blobs
        if reference not in there:
            code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
            error = {"code": code, "message": code.lower().replace("_", " ")}
            return self._answer(404, json.dumps({"errors": [error]}).encode())
        content = there[reference]
        told = _MANIFEST if kind == "manifests" else "application/octet-stream"
        return self._answer(200, content, **{"Content-Type": told})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        place = f"{urlsplit(self.path).path}{len(self.uploads)}"
        self.uploads[place] = b""
        self._answer(202, Location=place)

    def do_PATCH(self) -> None:
        self.uploads[self.path] += self._body()
        self._answer(202, Location=self.path)

    def do_PUT(self) -> None:
        asked = urlsplit(self.path)
        body = self._body()
        if "digest" in (query := parse_qs(asked.query)):
            content = self.uploads.pop(asked.path) + body
            assert query["digest"] == [digest(content)]
            self.registry.blobs[digest(content)] = content
        else:
            self.registry.put(self._named(asked.path)[1], body)
        self._answer(201)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: pytest would show it."""

    def _named(self, path: str) -> tuple[str, str]:
        found = _PATH.fullmatch(path)
        assert found, path
        return found[2], found[3]

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(body)


def digest(content: bytes) -> str:
    """The digest as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry, which skopeo reaches without TLS while ``home`` is ours."""
    handler = type("Handler", (_Handler,), {"uploads": {}, "protocol_version": "HTTP/1.1"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        registry = Registry(server.server_port)
        handler.registry = registry  # type: ignore[attr-defined]
        server.daemon_threads = True
        server.block_on_close = False
        settings = home / ".config/containers/registries.conf"
        settings.parent.mkdir(parents=True)
        location = f"127.0.0.1:{server.server_port}"
        settings.write_text(f'[[registry]]\nlocation = "{location}"\ninsecure = true\n')
        monkeypatch.setenv("HOME", str(home))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield registry
        finally:
            server.shutdown()
