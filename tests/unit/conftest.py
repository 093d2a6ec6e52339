"""A web server of our own, on the loopback, that misbehaves on demand, and a cloud image there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serai.image.settings import Settings
from tests.unit.site import PATTERN, Site, qemu_img

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Origin:
    """``files`` by path; ``script`` says, by path, how the first requests are answered instead."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request as the script, or else the files, have it."""
        # A proxy's clients ask for a whole address.
        path = re.sub(r"^http://[^/]+", "", handler.path)
        self.requests.append((handler.path, handler.headers["Range"]))
        content = self.files.get(path)
        scripted = self.script.get(path)
        if scripted:
            scripted.pop(0)(handler, content or b"")
        elif content is None:
            handler.send_error(404)
        else:
            self.serve(handler, content)

    def serve(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """A well-behaved answer, with Range (RFC 9110, section 14)."""
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        start = int(asked[1]) if asked else 0
        if asked and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        self.sent += len(content) - start
        handler.wfile.write(content[start:])


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A running Origin."""
    state = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        state.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 of 2 MiB, compressed as Ubuntu's are, that starts with PATTERN."""
    folder = tmp_path_factory.mktemp("disk")
    raw = folder / "disk.raw"
    raw.write_bytes(PATTERN)
    with raw.open("r+b") as stream:
        stream.truncate(2 << 20)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, folder / "disk.img")
    return folder / "disk.img"


@pytest.fixture
def site(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("http_proxy", "HTTP_PROXY", "SERAI_CLOUDIMAGE_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "images").mkdir()
    settings = Settings.of({"SERAI_CACHE": str(tmp_path / "cache")}, root=tmp_path)
    return Site(settings, origin, tmp_path)
