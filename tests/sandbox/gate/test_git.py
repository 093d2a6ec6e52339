"""Git itself under rules with its words: what it asks is what they mean."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import gate_process
from tests.support.gate_process import Gated
from tests.support.git_server import BACKEND, ENVIRONMENT, answered
from tests.support.origins import DEADLINE, serving

ADDRESS = "127.0.0.1"  # what the name localhost leads to

pytestmark = pytest.mark.skipif(not Path(BACKEND).exists(), reason="there is no git-http-backend")


class Backend(BaseHTTPRequestHandler):
    """Git's own server program, for the repositories below ``root``."""

    root: Path

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, fields, content = answered(self.root, self, body)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815  # http.server finds it by this name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with the repositories /org/app.git and /other/app.git."""
    root = tmp_path_factory.mktemp("origin")
    for group in ("org", "other"):
        git("init", "--quiet", "--bare", "--initial-branch=main", str(root / group / "app.git"))
    seed = root / "seed"
    git("init", "--quiet", "--initial-branch=main", str(seed))
    git("-C", str(seed), "commit", "--quiet", "--allow-empty", "-m", "first")
    for group in ("org", "other"):
        git("-C", str(seed), "push", "--quiet", str(root / group / "app.git"), "main")
    handler = type("Here", (Backend,), {"root": root})
    with ThreadingHTTPServer((ADDRESS, 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    with gate_process.gate() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(gate: Gated) -> Iterator[int]:
    """The port of what the bridge is in a session."""

    def relay(client: socket.socket) -> None:
        with gate.connect("blue") as way:
            back = threading.Thread(target=carry, args=(way, client))
            back.start()
            carry(client, way)
            back.join()

    with serving(relay) as running:
        yield running.port


def carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def git(*arguments: str, proxy: int = 0) -> bool:
    """Whether Git did it."""
    environment = {**ENVIRONMENT, **({"http_proxy": f"http://{ADDRESS}:{proxy}"} if proxy else {})}
    command = ["/usr/bin/git", "-c", "protocol.version=2", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, check=False, timeout=DEADLINE
    )
    assert proxy or done.returncode == 0, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(
    ("allow", "deny", "may"),
    [
        (["git-fetch"], [], "clone org, clone other"),
        (["git-fetch /org/**"], [], "clone org"),
        (["git-fetch /org/app"], [], "clone org"),
        (["git-fetch", "git-push /org/*"], [], "clone org, clone other, push org"),
        ([""], ["git-push"], "clone org, clone other"),
        ([""], ["git-push /Other/**", "git-fetch /org/app"], "clone other, push org"),
        (["git-push"], [], "push org, push other"),
        ([""], [], "clone org, clone other, push org, push other"),
        (["POST /**"], [], ""),
    ],
)
def test_git_does_what_its_rules_say(
    *,
    gate: Gated,
    proxy: int,
    server: int,
    tmp_path: Path,
    allow: list[str],
    deny: list[str],
    may: str,
) -> None:
    def rules(texts: list[str]) -> list[str]:
        return [f"localhost:{server} {each}".strip() for each in texts]

    origin = f"http://localhost:{server}"
    seed = tmp_path / "seed"
    gate.open("blue", f"localhost:{server}", ADDRESS)
    assert git("clone", "--quiet", f"{origin}/org/app.git", str(seed), proxy=proxy)
    git("-C", str(seed), "commit", "--quiet", "--allow-empty", "-m", "second")
    gate.change("blue", *rules(allow), ADDRESS, deny=rules(deny))
    branch = f"HEAD:refs/heads/{tmp_path.name}"
    tries = {
        "clone org": ("clone", "--quiet", f"{origin}/org/app", str(tmp_path / "one")),
        "clone other": ("clone", "--quiet", f"{origin}/other/app.git", str(tmp_path / "two")),
        "push org": ("-C", str(seed), "push", "--quiet", f"{origin}/org/app.git", branch),
        "push other": ("-C", str(seed), "push", "--quiet", f"{origin}/other/app", branch),
    }
    assert ", ".join(what for what, each in tries.items() if git(*each, proxy=proxy)) == may
