"""An origin in TLS for tests of the gate, in a network of its own, and a client of a session.

The origin answers at 11.0.0.2:443 to all names below ``test``, keeps connections, and says what it
was asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import gate_process
from tests.support.gate_process import Gated
from tests.support.network import Names, dns, inside, outside
from tests.support.origins import DEADLINE, digest, read_body, read_head, respond, serving

PUBLIC = "11.0.0.2"
NAMES = ("api.test", "other.test", "git.test", "pinned.test", "foreign.test")


@dataclass
class Site:
    """``seen`` is what the origin was asked, ``connections`` how many it had. At /events it sends
    one for each of ``turns``."""

    gate: Gated
    folder: Path
    seen: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def context(self, session: str, *alpn: str) -> ssl.SSLContext:
        """What a client of the session trusts: the file that the gate has written for it."""
        bundle = self.gate.paths.certificates(session) / "bundle.pem"
        context = ssl.create_default_context(cafile=str(bundle) if bundle.exists() else None)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def tls(
        self,
        place: str = "api.test",
        session: str = "blue",
        *,
        name: str = "",
        context: ssl.SSLContext | None = None,
    ) -> ssl.SSLSocket:
        """TLS in a tunnel to ``place``; the client says that it wants ``name``."""
        sock = self.gate.tunnel(session, place if ":" in place else f"{place}:443")
        context = context or self.context(session)
        return context.wrap_socket(sock, server_hostname=name or place.partition(":")[0])

    @contextmanager
    def client(self, place: str = "api.test", **more: Any) -> Iterator[http.client.HTTPConnection]:
        """A client of HTTP on such a connection."""
        connection = http.client.HTTPConnection(place)
        with self.tls(place, **more) as connection.sock:
            yield connection

    def get(
        self, path: str = "/", place: str = "api.test", method: str = "GET", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request on a connection of its own."""
        headers, body = more.pop("headers", {}), more.pop("body", None)
        with self.client(place, **more) as client:
            client.request(method, path, body, {"Accept": "application/json", **headers})
            answer = client.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")

    def placeholder(self, variable: str = "API_KEY", session: str = "blue") -> str:
        """What the session has for the secret, as sessiond reads it."""
        state = json.loads((self.gate.paths.gate_state / f"{session}.json").read_text())
        return str(state["environment"][variable])

    def open(
        self,
        session: str,
        *allow: str,
        deny: Sequence[str] = (),
        bind: Sequence[dict[str, Any]] = (),
        uid: int = 70000,
    ) -> None:
        """Make a session, or give it another policy; sessiond makes its folders."""
        for folder in (self.gate.paths.gate(session), self.gate.paths.certificates(session)):
            folder.mkdir(parents=True, exist_ok=True)
        rules = {"allow": list(allow), "deny": list(deny), "bind": list(bind)}
        self.gate.call("open", name=session, uid=uid, policy={"profile": "default", **rules})

    def gate_rss(self) -> int:
        """Bytes of memory that the gate has."""
        pages = int(Path(f"/proc/{self.gate.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def decisions(self, **wanted: Any) -> list[dict[str, Any]]:
        return self.gate.entries(event="decision", **wanted)

    def handle(self, client: socket.socket) -> None:
        """The origin server."""
        with contextlib.suppress(ssl.SSLError), self._tls().wrap_socket(client, True) as tls:
            self.connections += 1
            stream = tls.makefile("rb")
            while True:
                head = read_head(stream)
                if ("Expect", "100-continue") in head[1]:
                    respond(tls, "100 Continue")
                body = read_body(stream, head)
                seen = {"line": head[0], "headers": head[1], "digest": digest(body)}
                self.seen.append(seen)
                path, report = head[0].split(" ")[1], json.dumps(seen).encode()
                if not _answer(tls, path, report, self.turns):
                    return

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "site.pem")
        foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        foreign.load_cert_chain(self.folder / "foreign.pem")

        def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name == "foreign.test":
                tls.context = foreign

        context.sni_callback = choose
        return context


def _answer(tls: ssl.SSLSocket, path: str, report: bytes, turns: threading.Semaphore) -> bool:
    """What servers do, by path; whether another request may follow."""
    what, _, query = path.partition("?")
    if what == "/close":
        respond(tls, "200 OK", "Connection: close", body=b"{}")
        with contextlib.suppress(OSError):
            tls.unwrap()  # nothing but this says that the answer is whole
        return False
    if what == "/big":
        respond(tls, "200 OK", f"Content-Length: {query}")
        piece = bytes(1 << 20)
        for at in range(0, int(query), len(piece)):
            tls.sendall(piece[: int(query) - at])
    elif what == "/redirect":
        respond(
            tls, "302 Found", "Location: https://other.test/there", "Content-Length: 2", body=b"{}"
        )
    elif what == "/events":
        respond(tls, "200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        while turns.acquire(timeout=DEADLINE):
            tls.sendall(b"9\r\ndata: 1\n\n\r\n")
    elif what == "/socket":
        respond(tls, "101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket")
        while data := tls.recv(65536):
            tls.sendall(data)
        return False
    elif what == "/cut":
        # An answer without a length, whose end is not announced.
        tls.sendall(b"HTTP/1.1 200 OK\r\n\r\nthe first half")
        tls.shutdown(socket.SHUT_RDWR)
        return False
    elif what == "/illegal":
        # A header that no client takes, with all that was asked in it.
        tls.sendall(b"HTTP/1.1 200 OK\r\nX-Echo: \0" + report + b"\r\nContent-Length: 0\r\n\r\n")
    elif what == "/more":
        # A second response that nobody has asked for.
        respond(tls, "200 OK", "Content-Length: 2", body=b"{}HTTP/1.1 200 OK\r\n\r\n")
    else:
        respond(tls, "200 OK", f"Content-Length: {len(report)}", body=report)
    return True


def certify(folder: Path) -> None:
    """``ca.pem``, which the gate trusts, a certificate of it for all names, and a foreign one."""
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
    names = ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in NAMES)]
    leaf = ["-subj", "/CN=site", *names, "-addext", "basicConstraints=critical,CA:FALSE"]
    for ca, made in (("ca", "site"), ("foreign-ca", "foreign")):
        for argv in (
            ["-subj", f"/CN=Test {ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem"],
            [*leaf, "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-keyout", "key", "-out", "crt"],
        ):
            whole = ["/usr/bin/openssl", "req", "-x509", *new, *argv]
            subprocess.run(whole, cwd=folder, check=True, capture_output=True)
        (folder / f"{made}.pem").write_text(
            (folder / "key").read_text() + (folder / "crt").read_text()
        )


@contextmanager
def serving_tls(folder: Path) -> Iterator[Site]:
    """The gate and the origin, in networks of their own."""
    certify(folder)
    settings = f'[tls]\nroots = "{folder}/ca.pem"\nnever = ["pinned.test"]\n'
    with outside(folder) as (pid, prefix), gate_process.gate(settings, prefix) as gate:
        site = Site(gate, folder)
        with inside(pid):
            listener = socket.create_server((PUBLIC, 443), backlog=64)
            plain = socket.create_server((PUBLIC, 80), backlog=64)
        names = Names(dns(gate.pid))
        names.answers.update({name: [[PUBLIC]] for name in NAMES})
        with serving(site.handle, listener), serving(_plain(site), plain):
            yield site
            site.turns.release(100)  # whoever still waits for one ends
        names.close()


def _plain(site: Site) -> Any:
    def handle(client: socket.socket) -> None:
        head = read_head(client.makefile("rb"))
        site.seen.append({"line": head[0], "headers": head[1], "plain": True})
        respond(client, "200 OK", "Content-Length: 2", body=b"{}")

    return handle
