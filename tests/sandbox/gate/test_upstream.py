"""Parent proxies: what they are asked, and that nobody but them sees the credentials."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import gate_process, origins
from tests.support.gate_process import Gated, everything, until
from tests.support.origins import Handler, echo, read_head, serving
from tests.support.socks import socks_request
from tests.support.waiting import wait_for

USER, PASSWORD = "keeper", "open sesame"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
POLICY = gate_process.policy("*.test", "127.0.0.1")
SECRETS = (PASSWORD.encode(), BASIC.encode(), USER.encode())


class Parent:
    """A parent proxy that records what it is asked; it leads everywhere to one echo or page."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connect = "HTTP/1.1 200 Go ahead\r\nX: y\r\n\r\n"

    def http(self, client: socket.socket) -> None:
        line, headers = read_head(client.makefile("rb"))
        self.asked.append(line)
        self.headers.append({name.lower(): value for name, value in headers})
        if line.startswith("CONNECT "):
            client.sendall(self.connect.encode() + b"early ")
            echo(client)
        elif self.headers[-1].get("proxy-authorization") == f"Basic {BASIC}":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
        else:
            client.sendall(
                b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
            )

    def socks(self, code: int, *, password: bool) -> Handler:
        def serve(client: socket.socket) -> None:
            greeting = client.recv(3)
            assert greeting == (b"\x05\x01\x02" if password else b"\x05\x01\x00")
            client.sendall(b"\x05" + greeting[2:])
            if password:
                user, secret = USER.encode(), PASSWORD.encode()
                right = bytes([1, len(user)]) + user + bytes([len(secret)]) + secret
                client.sendall(b"\x01\x00" if client.recv(600) == right else b"\x01\x01")
            self.asked.append(client.recv(300).hex())
            # Bound to a name, which nobody expects, and the server speaks first.
            client.sendall(bytes([5, code, 0, 3, 4]) + b"here\x00\x50" + b"early ")
            if not code:
                echo(client)

        return serve


@pytest.fixture
def parent() -> Parent:
    return Parent()


@pytest.fixture
def start() -> Iterator[Callable[..., Gated]]:
    """Starts a gate behind a parent at an address."""
    with ExitStack() as stack:

        def started(kind: str, address: str, *more: str) -> Gated:
            lines = ["[upstream]", f'kind = "{kind}"', f'address = "{address}"', *more]
            gate = stack.enter_context(gate_process.gate("\n".join(lines) + "\n"))
            gate.open("blue", "*.test", "127.0.0.1")
            return gate

        yield started


CREDENTIALS = (f'username = "{USER}"', f'password = "{PASSWORD}"')


def unseen(gate: Gated, *answers: bytes) -> None:
    """No credentials in what a session was told, nor in the logs."""
    texts = [*answers, gate.log.read_bytes()]
    texts += [file.read_bytes() for file in gate.paths.audit.iterdir()]
    for text in texts:
        assert not any(secret in text for secret in SECRETS)


def test_tunnels_and_requests_through_an_http_parent(
    parent: Parent, start: Callable[..., Gated]
) -> None:
    with serving(parent.http) as proxy:
        gate = start("http", proxy.place, *CREDENTIALS)
        with gate.tunnel("blue", "a.test:443") as sock:
            assert until(sock, b" ") == b"early "
            sock.sendall(b"and late")
            sock.shutdown(socket.SHUT_WR)
            said = everything(sock)
            assert said == b"and late"
        request = (
            b"GET http://b.test:81/x?y HTTP/1.1\r\nHost: b.test:81\r\nConnection: close\r\n"
            b"Proxy-Authorization: Basic bWluZTptaW5l\r\n\r\n"
        )
        page = gate.ask("blue", request)
        assert page.startswith(b"HTTP/1.1 200 OK\r\n") and page.endswith(b"page")
        denied = gate.ask("blue", request.replace(b"b.test", b"b.example"))
        assert denied.startswith(b"HTTP/1.1 403 ")
        assert parent.asked == [
            "CONNECT a.test:443 HTTP/1.1",
            "GET http://b.test:81/x?y HTTP/1.1",
        ]
        for headers in parent.headers:
            assert headers["proxy-authorization"] == f"Basic {BASIC}"
        # A name is the parent's to look up: no address is known here.
        assert {entry["address"] for entry in gate.entries()} == {None}
        unseen(gate, page, denied, said)


def test_a_switch_of_protocols_goes_through_a_tunnel_of_the_parent(
    parent: Parent, start: Callable[..., Gated]
) -> None:
    """A parent that stays in HTTP would read what follows a 101 as requests of its own."""
    switched = b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    seen: list[str] = []

    def http(client: socket.socket) -> None:
        stream = client.makefile("rb")
        seen.append(read_head(stream)[0])
        client.sendall(b"HTTP/1.1 200 Go ahead\r\n\r\n")
        seen.append(read_head(stream)[0])
        client.sendall(switched)
        client.sendall(stream.read(3))

    with serving(http) as proxy:
        gate = start("http", proxy.place)
        offer = "Connection: Upgrade\r\nUpgrade: websocket"
        with gate.connect("blue") as sock:
            sock.sendall(f"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{offer}\r\n\r\n".encode())
            assert until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            sock.sendall(b"raw")
            assert until(sock, b"raw") == b"raw"
    assert seen == ["CONNECT a.test:80 HTTP/1.1", "GET / HTTP/1.1"]


def test_a_parent_may_be_at_a_unix_socket(
    parent: Parent, start: Callable[..., Gated], tmp_path: Path
) -> None:
    path = tmp_path / "parent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with serving(parent.http, listener):
        gate = start("http", str(path))
        with gate.tunnel("blue", "a.test:443") as sock:
            assert until(sock, b" ") == b"early "
    assert "proxy-authorization" not in parent.headers[0]


def test_a_gate_that_resolves_tells_the_parent_the_address(
    parent: Parent, start: Callable[..., Gated]
) -> None:
    with serving(parent.http) as proxy:
        gate = start("http", proxy.place, 'resolve = "gate"')
        gate.change("blue", "localhost", "127.0.0.1")
        with gate.tunnel("blue", "localhost:443") as sock:
            assert until(sock, b" ") == b"early "
        gate.ask("blue", b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert parent.asked == ["CONNECT 127.0.0.1:443 HTTP/1.1", "CONNECT 127.0.0.1:80 HTTP/1.1"]
        gate.change("blue", "localhost")
        denied = gate.ask("blue", b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert denied.startswith(b"HTTP/1.1 403 ")
        assert len(parent.asked) == 2


@pytest.mark.parametrize("password", [True, False])
def test_a_socks_parent(parent: Parent, start: Callable[..., Gated], password: bool) -> None:
    with serving(parent.socks(0, password=password)) as proxy:
        gate = start("socks5", proxy.place, *(CREDENTIALS if password else ()))
        with gate.tunnel("blue", "a.test:443") as sock:
            assert until(sock, b" ") == b"early "
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        gate.tunnel("blue", "127.0.0.1:81").close()
        loopback = socket.inet_aton("127.0.0.1")
        assert parent.asked == [
            socks_request(b"a.test", 443).hex(),
            socks_request(loopback, 81, kind=1).hex(),
        ]
        unseen(gate)


def test_a_socks_parent_that_refuses(parent: Parent, start: Callable[..., Gated]) -> None:
    with serving(parent.socks(5, password=False)) as proxy:
        gate = start("socks5", proxy.place)
        with gate.connect("blue", "socks") as sock:
            sock.sendall(b"\x05\x01\x00" + socks_request(b"a.test", 443))
            assert everything(sock)[2:4] == b"\x05\x05"


def test_a_parent_that_fails_is_not_the_session_s_fault(
    parent: Parent, start: Callable[..., Gated]
) -> None:
    wrong = (f'username = "{USER}"', f'password = "not {PASSWORD}"')
    connect = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n"
    get = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
    with serving(parent.http) as proxy:
        gate = start("http", proxy.place, *wrong)
        answer = gate.ask("blue", get)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"407" not in answer and b"Proxy-Authenticate" not in answer
        for said in ("HTTP/1.1 407 Who\r\n\r\n", "HTTP/1.1 503 No\r\n\r\n", "220 mail\r\n\r\n"):
            parent.connect = said
            answer = gate.ask("blue", connect)
            assert answer.startswith(b"HTTP/1.1 502 ")
            unseen(gate, answer)
        parent.connect = "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 10_000
        assert b"does not speak HTTP" in gate.ask("blue", connect)
    answer = gate.ask("blue", connect)
    assert json.loads(answer.splitlines()[-1])["reason"] == "the parent proxy cannot be reached"
    with gate.connect("blue", "socks") as sock:
        sock.sendall(b"\x05\x01\x00" + socks_request(b"a.test", 443))
        assert everything(sock)[2:4] == b"\x05\x01"


def test_a_parent_that_says_nothing_is_not_waited_for(start: Callable[..., Gated]) -> None:
    heard: list[bytes] = []
    with serving(lambda client: heard.append(everything(client))) as proxy:
        gate = start("http", proxy.place, "[timeouts]", "dial = 0.3")
        answer = gate.ask("blue", b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 504 ")
        wait_for(lambda: heard)


TINYPROXY = shutil.which("tinyproxy")
if TINYPROXY:  # where there is none, the parents above have to do, and no test says otherwise

    def test_tinyproxy_as_parent(start: Callable[..., Gated], tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = tmp_path / "tinyproxy.conf"
        settings.write_text(f"Port {port}\nListen 127.0.0.1\nBasicAuth {USER} secret\n")
        daemon = subprocess.Popen([str(TINYPROXY), "-d", "-c", settings], stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: answers(port))
            gate = start("http", f"127.0.0.1:{port}", CREDENTIALS[0], 'password = "secret"')
            with serving(echo) as server, gate.tunnel("blue", server.place) as sock:
                sock.sendall(b"through both.")
                assert until(sock, b".") == b"through both."
            with serving(origins.web) as web:
                lines = f"GET http://{web.place}/404 HTTP/1.1\r\nHost: {web.place}\r\n"
                page = gate.ask("blue", f"{lines}Connection: close\r\n\r\n".encode())
            assert page.startswith(b"HTTP/1.1 404 ")
            assert page.endswith(b"gone")
        finally:
            os.kill(daemon.pid, signal.SIGTERM)
            daemon.wait(gate_process.DEADLINE)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_parent_is_told_the_session_and_its_labels_if_the_settings_say_so(
    parent: Parent, start: Callable[..., Gated]
) -> None:
    with serving(parent.http) as proxy:
        gate = start("http", proxy.place, *CREDENTIALS, "identity = true")
        labels = {"team": "a, b=ü", "cost": "7"}
        gate.call("open", name="blue", uid=70000, policy=POLICY, labels=labels)
        # What a client says of itself is not what the parent hears, however it is spelt.
        forged = (
            b"GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n"
            b"Serai-Session: red\r\nserai-labels: team=x\r\nSerai_Session: red\r\n\r\n"
        )
        gate.ask("blue", forged)
        with gate.tunnel("blue", "a.test:443") as sock:
            assert until(sock, b" ") == b"early "
        gate.restart(signal.SIGKILL)
        gate.ask("blue", forged)
        gate.call("open", name="blue", uid=70000, policy=POLICY)
        gate.ask("blue", forged)
    told = {"serai-session": "blue", "serai-labels": "cost=7, team=a%2C%20b%3D%C3%BC"}
    mine = [{key: h[key] for key in h if "serai" in key} for h in parent.headers]
    assert mine == [told, told, told, {"serai-session": "blue"}]


@pytest.mark.parametrize("more", [(), ('resolve = "gate"',)])
def test_without_that_a_parent_hears_neither_the_session_nor_what_it_claims(
    parent: Parent, start: Callable[..., Gated], more: tuple[str, ...]
) -> None:
    with serving(parent.http) as proxy:
        gate = start("http", proxy.place, *more)
        gate.call("open", name="blue", uid=70000, policy=POLICY, labels={"a": "b"})
        gate.ask(
            "blue",
            b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Serai-Session: red\r\n\r\n",
        )
    assert parent.headers and not any("serai" in key for h in parent.headers for key in h)
