"""The origin that asks for a credential, and holds back half of an answer."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, cast

from tests.support import git_server
from tests.support.network import inside
from tests.support.origins import read_body
from tests.support.peers import site as web
from tests.support.site import ADDRESS, HELLO

WAITS = 120.0
"""So long the origin holds an answer back at most."""
HOSTS = {
    "api.anthropic.com": "x-api-key: {}",
    "api.openai.com": "Authorization: Bearer {}",
    "github.com": "basic x-access-token",
    "gitlab.com": "basic oauth2",
    "npm.test": "Authorization: Bearer {}",
    "pypi.test": "basic __token__",
    "echo.test": "Authorization: Bearer {}",
}
"""The origin's names, and what each asks for; its public ones lead to the test's own origin."""


@dataclass
class Origin:
    """``arrived`` are the names whose credential came, ``refused`` those where it did not; ``hold``
    is the request whose answer is held back."""

    folder: Path
    values: dict[str, str] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    hold: str = ""
    held: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def expect(self, host: str, value: str, hold: str) -> None:
        """From now on ``host`` wants this value, and one request waits."""
        self.values[host], self.hold = value, hold
        self.arrived.clear()
        self.refused.clear()
        self.held.clear()
        self.go.clear()

    def wait(self) -> None:
        """Hold back what a program waits for, once."""
        self.hold = ""
        self.held.set()
        self.go.wait(WAITS)

    def knows(self, host: str, headers: Any) -> bool:
        """Whether the host's credential is in there, where the host wants it."""
        wanted, value = HOSTS[host], self.values.get(host, "")
        kind, _, user = wanted.partition(" ")
        if kind == "basic":
            pair = base64.b64encode(f"{user}:{value}".encode()).decode()
            return bool(value) and headers.get_all("Authorization") == [f"Basic {pair}"]
        name, _, template = wanted.partition(": ")
        return bool(value) and headers.get_all(name) == [template.replace("{}", value)]


class Handler(web.Handler):
    """Packages as files, git, and the two APIs as those of the SDKs' makers answer."""

    origin: Origin
    scheme = "https"

    def do_GET(self) -> None:  # noqa: N802 - http.server finds it by this name
        host = self.headers["Host"]
        stream = cast("BinaryIO", self.rfile)
        body = read_body(stream, (self.requestline, list(self.headers.items())))
        if not self.origin.knows(host, self.headers):
            self.origin.refused.append(host)
            more = {"WWW-Authenticate": 'Basic realm="x"'} if "basic" in HOSTS[host] else {}
            return self.send(401, more, b'{"error": {"message": "who are you?"}}')
        self.origin.arrived.append(host)
        if host == "echo.test":
            return self.send(200, {}, f"{HELLO}\n{self.headers}".encode())
        if host.startswith("git"):
            answer = git_server.answered(self.origin.folder / "www/git", self, body)
            return self.send(*answer)
        if self.command == "POST":
            return self.api(json.loads(body))
        return super().do_GET()

    do_POST = do_GET  # noqa: N815  # http.server finds it by this name

    def copyfile(self, source: Any, _outputfile: Any) -> None:
        self.pour(source.read())

    def api(self, asked: dict[str, Any]) -> None:
        """A model's answer, in one or in events."""
        anthropic = self.path == "/v1/messages"
        if not asked.get("stream"):
            return self.send(200, {}, json.dumps(MESSAGE if anthropic else COMPLETION).encode())
        events = MESSAGE_EVENTS if anthropic else [*COMPLETION_EVENTS, "[DONE]"]
        text = "".join(
            (f"event: {each['type']}\n" if anthropic else "")
            + f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n"
            for each in events
        )
        self.path += " stream"
        return self.send(200, {"Content-Type": "text/event-stream"}, text.encode())

    def send(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **fields}.items():
            if name != "Content-Length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.pour(body)

    def pour(self, body: bytes) -> None:
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if self.origin.hold and self.origin.hold in f"{self.command} {self.path}":
            self.origin.wait()
        self.wfile.write(body[half:])


USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE: dict[str, Any] = {
    **{"id": "msg_1", "type": "message", "role": "assistant", "model": "m"},
    **{"content": [{"type": "text", "text": HELLO}], "stop_reason": "end_turn"},
    **{"stop_sequence": None, "usage": USAGE},
}
MESSAGE_EVENTS: list[Any] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    *(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in HELLO.split()
    ),
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 1},
    },
    {"type": "message_stop"},
]
_COMPLETION = {"id": "c", "created": 1, "model": "m"}
COMPLETION: dict[str, Any] = {
    **{**_COMPLETION, "object": "chat.completion", "usage": None},
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": HELLO},
            "finish_reason": "stop",
        }
    ],
}
COMPLETION_EVENTS: list[Any] = [
    {
        **{**_COMPLETION, "object": "chat.completion.chunk"},
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    for text in HELLO.split()
]


@contextmanager
def listening(origin: Origin, pid: int) -> Iterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(origin.folder / "site.pem")
    handler = partial(
        type("Here", (Handler,), {"origin": origin}), directory=str(origin.folder / "www")
    )
    with inside(pid):
        server = ThreadingHTTPServer((ADDRESS, 443), handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
