"""A web server of our own, on the loopback, that misbehaves on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@contextmanager
def serving() -> Iterator[Origin]:
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


def hang_up(after: int) -> Answer:
    """Promise the rest of the file and break off after some bytes of it."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : start + after])

    return answer


def status(code: int) -> Answer:
    return lambda handler, _: handler.send_error(code)


def ignore_range(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def wrong_range(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 7-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - 7))
    handler.end_headers()
    handler.wfile.write(content[7:])
