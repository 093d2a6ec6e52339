"""A real gate without sessiond for tests: a process that can be stopped, killed and started again.

The test speaks to it as sessiond does, and to a session's two sockets as the bridge does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.gate.audit import chain

CHECKOUT = Path(__file__).resolve().parents[2]
# The distribution's own Python, which has python3-h11 and python3-idna, as in the VM.
PYTHON = "/usr/bin/python3"
DEADLINE = 30.0
KEY = bytes(range(32))
"""The VM's, for secrets."""
CODE = (
    "import sys; from pathlib import Path; from serai.gate import server\n"
    "exec(sys.argv[1])\n"
    "sys.exit(server.main(server.Paths(Path(sys.argv[2]))))"
)


class Gated:
    """A gate below ``root``; ``prefix`` is a command to start it with, ``patch`` runs before it."""

    def __init__(
        self, root: Path, settings: str = "", prefix: Sequence[str] = (), patch: str = ""
    ) -> None:
        self.paths = Paths(root)
        self.log = root / "gate.log"
        self._prefix = list(prefix)
        self._patch = patch
        self.paths.profiles.mkdir(parents=True)
        self.paths.audit.mkdir(parents=True)
        self.paths.gate_settings.write_text(settings)
        self.paths.gate_settings.chmod(0o600)
        self.process = self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        self.paths.gate_key.write_bytes(KEY)  # as its unit does before each start
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *self._prefix,
                    PYTHON,
                    "-W",
                    "always::ResourceWarning",
                    "-c",
                    CODE,
                    self._patch,
                    str(self.paths.root),
                ],
                cwd=CHECKOUT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{CHECKOUT}/src"},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        end = time.monotonic() + DEADLINE
        while True:
            assert process.poll() is None, self.log.read_text()
            try:
                self.call("status")
                return process
            except (OSError, SeraiError):
                assert time.monotonic() < end, "the gate does not start"
                time.sleep(0.005)

    def restart(self, number: signal.Signals) -> None:
        """End it with a signal and start it again, as systemd would."""
        self.process.send_signal(number)
        self.process.wait(DEADLINE)
        self.process = self._start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def call(self, method: str, /, **params: Any) -> Any:
        """What sessiond would be answered. Raises SeraiError."""
        with jsonrpc.Client(self.paths.gate_control, DEADLINE) as client:
            return client.call(method, **params)

    def open(self, name: str, *allow: str, deny: Sequence[str] = (), profile: str = "") -> None:
        """Make a session; sessiond makes the folder of its sockets."""
        self.paths.gate(name).mkdir(parents=True, exist_ok=True)
        self.call("open", name=name, uid=70000, policy=policy(*allow, deny=deny, profile=profile))

    def change(self, name: str, *allow: str, deny: Sequence[str] = (), cut: bool = False) -> int:
        """Give a session another policy; returns how many connections were cut."""
        changed = self.call("change", name=name, policy=policy(*allow, deny=deny), cut=cut)
        return int(changed["cut"])

    def connect(self, name: str, protocol: str = "http") -> socket.socket:
        """A client's connection, as socat makes it."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(str(self.paths.gate(name) / f"{protocol}.sock"))
        return sock

    def ask(self, name: str, request: bytes) -> bytes:
        """All that the HTTP proxy answers to ``request`` until it hangs up."""
        with self.connect(name) as sock:
            with suppress(BrokenPipeError):  # answered unasked, and hung up since
                sock.sendall(request)
            return everything(sock)

    def tunnel(self, name: str, place: str, early: bytes = b"") -> socket.socket:
        """A tunnel by CONNECT, open."""
        sock = self.connect(name)
        sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode() + early)
        head = until(sock, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return sock

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """The audit log's entries that have these values."""
        found = chain.read(self.paths.audit, 0, 1_000_000)
        return [each for each in found if all(each.get(k) == v for k, v in wanted.items())]

    def descriptors(self) -> int:
        """How many files the gate has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def policy(*allow: str, deny: Sequence[str] = (), profile: str = "") -> dict[str, Any]:
    """A session's policy as sessiond sends it."""
    return {"profile": profile or "default", "allow": list(allow), "deny": list(deny)}


def everything(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    received = b""
    while data := sock.recv(1 << 20):
        received += data
    return received


def until(sock: socket.socket, end: bytes) -> bytes:
    """Byte for byte what comes up to ``end``; what follows stays unread."""
    received = b""
    while not received.endswith(end):
        data = sock.recv(1)
        assert data, f"hung up after {received!r}"
        received += data
    return received


@contextmanager
def gate(settings: str = "", prefix: Sequence[str] = (), patch: str = "") -> Iterator[Gated]:
    """A running gate; all of it is gone afterwards, and its log shows in a failure."""
    root = Path(tempfile.mkdtemp(prefix="serai-gate-"))
    gated = None
    try:
        gated = Gated(root, settings, prefix, patch)
        yield gated
    finally:
        if gated is not None:
            gated.close()
            text = gated.log.read_text()
            sys.stderr.write(text)
            # A fault that asyncio or we swallowed: nothing a client does may cause one.
            assert "Traceback" not in text, text
            assert "never retrieved" not in text, text
            assert "ResourceWarning" not in text, text
        shutil.rmtree(root, ignore_errors=True)
