"""Ports of a session, reached from outside, and what a payload that listens there can do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai import connect
from serai.common import jsonrpc
from serai.common.errors import NOT_FOUND, REFUSED, TIMEOUT, WRONG_STATE, SeraiError
from serai.common.streams import WINDOW
from serai.runtime.library import Session
from tests.support.browser import chromium
from tests.support.fake_vm import DEADLINE, Vm
from tests.support.waiting import wait_for

# One thread for each connection; "up" is written when it listens.
SERVER = """
import hashlib, os, select, socket, struct, sys, threading, time
family, host = (socket.AF_INET6, "::1") if ":" in sys.argv[1] else (socket.AF_INET, "127.0.0.1")
def every(end):
    data = b""
    while more := end.recv(65536): data += more
    return data
def digest(end):
    "All of the input, then an answer of two windows."
    data = every(end)
    end.sendall(hashlib.sha256(data).digest() + data[: 1 << 19])
def echo(end):
    while data := end.recv(65536): end.sendall(data)
def flood(end):
    while True: end.sendall(bytes(65536))
def deaf(end):
    time.sleep(999)
def reset(end):
    end.sendall(b"x" * 100)
    end.recv(1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def rude(end):
    "An answer before all of the question is there."
    end.recv(1)
    end.sendall(b"no")
    end.shutdown(socket.SHUT_RDWR)
def serve(end):
    try:
        with end: globals()[sys.argv[2]](end)
    except OSError: pass
listener = socket.create_server((host, int(sys.argv[3])), family=family, backlog=int(sys.argv[4]))
print("up", flush=True)
while sys.argv[2] != "nobody":
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
time.sleep(999)
"""


# A page that says what a websocket tells it, as the dev servers do that load a page again. What
# that is stands in a file.
DEV_SERVER = """
import base64, hashlib, http.server, pathlib, time
PAGE = (b"<title>old</title><script>new WebSocket(`ws://${location.host}/live`).onmessage ="
        b" event => { document.title = event.data }</script>")
class Dev(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket": return self.live()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)
    def live(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        said = b""
        while True:
            text = pathlib.Path("mnt/outputs/title").read_bytes()
            if text != said: self.wfile.write(bytes([0x81, len(text)]) + text)
            said = text
            time.sleep(0.05)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Dev)
print("up", flush=True)
server.serve_forever()
"""


@pytest.fixture
def session(vm: Vm) -> Iterator[Session]:
    """A session of its own."""
    with connect(f"unix://{vm.paths.control}") as machine:
        made = machine.create()
        yield made
        with contextlib.suppress(SeraiError):  # it is gone, or is just going
            made.remove()


@contextmanager
def serving(
    session: Session, what: str, host: str = "127.0.0.1", port: int = 3000, backlog: int = 100
) -> Iterator[None]:
    """A server of a payload's, which ends afterwards."""
    job = session.start(["python3", "-c", SERVER, host, what, str(port), str(backlog)])
    wait_for(lambda: b"up" in b"".join(job.output()) or job.show()["state"] == "ended")
    assert job.show()["state"] == "running", b"".join(job.output())
    yield
    with contextlib.suppress(SeraiError):  # its session has ended
        job.kill("KILL")
        job.wait()


@contextmanager
def frozen(vm: Vm, session: Session) -> Iterator[None]:
    """The session is frozen meanwhile, by a switch to another one."""
    other = vm.call("create")["name"]
    for name in (session.name, other):
        vm.call("switch", name=name)
    yield
    vm.call("remove", name=other)


def reach(url: str) -> socket.socket:
    """A connection to a forward."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=DEADLINE)


def turned_away(url: str) -> bool:
    """Whether a forward ends a connection; it may do so before that is told to be there."""
    with contextlib.suppress(ConnectionResetError), reach(url) as end:
        return rest(end) == b""
    return True


def received(end: socket.socket) -> bytes:
    """All that comes until the end."""
    data = b""
    while more := end.recv(1 << 20):
        data += more
    return data


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.usefixtures("unharmed")
def test_many_connections_at_once_and_each_half_closed(session: Session, host: str) -> None:
    data = os.urandom(1 << 20)

    def ask(url: str) -> bytes:
        with reach(url) as end:
            end.sendall(data)
            end.shutdown(socket.SHUT_WR)
            return received(end)

    with serving(session, "digest", host), session.forward(3000) as url:
        with ThreadPoolExecutor(24) as threads:
            answers = set(threads.map(ask, [url] * 24))
        assert answers == {hashlib.sha256(data).digest() + data[: 1 << 19]}
        with reach(url) as end:  # nothing is sent at all
            end.shutdown(socket.SHUT_WR)
            assert received(end) == hashlib.sha256(b"").digest()


@pytest.mark.usefixtures("unharmed")
def test_a_browser_shows_what_a_dev_server_says_and_what_it_says_later(session: Session) -> None:
    session.files.write("outputs/title", b"first")
    job = session.start(["python3", "-u", "-c", DEV_SERVER], cwd=session.show()["home"])
    assert b"up" in next(job.output(follow=True))
    with session.forward(3000) as url, chromium() as browser:
        browser.get(url)
        wait_for(lambda: browser.title == "first")
        session.files.write("outputs/title", b"second")
        wait_for(lambda: browser.title == "second")
    job.kill("KILL")


@pytest.mark.usefixtures("unharmed")
def test_a_port_where_nobody_listens_is_one_code(vm: Vm, session: Session) -> None:
    with vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]
        with pytest.raises(SeraiError, match="nothing listens on port 3000") as caught:
            client.call("forward.connect", forward=opened, stream=1)
        assert caught.value.code == REFUSED
        for wrong in (0, 65536):
            with pytest.raises(SeraiError, match="port"):
                client.call("forward.open", name=session.name, port=wrong)
        with vm.client() as other, pytest.raises(SeraiError, match="no forward") as caught:
            other.call("forward.connect", forward=opened, stream=1)
        assert caught.value.code == NOT_FOUND
    with session.forward(3000) as url:
        assert turned_away(url)
        with serving(session, "echo"), reach(url) as end:  # the same forward
            end.sendall(b"a")
            assert end.recv(1) == b"a"


@pytest.mark.usefixtures("unharmed")
def test_who_does_not_read_delays_no_other_and_fills_no_memory(vm: Vm, session: Session) -> None:
    with serving(session, "flood"), session.forward(3000) as url:
        before = memory(vm)
        lazy = [reach(url) for _ in range(24)]
        for end in lazy:
            assert end.recv(1)
        with reach(url) as end:
            read = 0
            while read < 16 * WINDOW:
                read += len(end.recv(1 << 20))
        assert memory(vm) - before < 24 * 2 * WINDOW
        for end in lazy:
            end.close()


@pytest.mark.usefixtures("unharmed")
def test_a_server_that_does_not_read_holds_up_its_client_alone(session: Session) -> None:
    with serving(session, "deaf"), session.forward(3000) as url:
        stuck = [reach(url) for _ in range(10)]
        for end in stuck:
            end.settimeout(0.1)
            with pytest.raises(TimeoutError):
                while True:
                    end.sendall(bytes(1 << 20))
        with (
            serving(session, "echo", port=3001),
            session.forward(3001) as other,
            reach(other) as end,
        ):
            end.sendall(b"a")
            assert end.recv(1) == b"a"
        for end in stuck:
            end.close()


@pytest.mark.usefixtures("unharmed")
def test_a_server_that_resets_and_one_that_answers_early(session: Session) -> None:
    with session.forward(3000) as url:
        with serving(session, "reset"), reach(url) as end:
            end.sendall(b"a")
            with pytest.raises(ConnectionResetError):
                received(end)
        with serving(session, "rude"), reach(url) as end:
            end.sendall(bytes(1 << 20))
            assert end.recv(2) == b"no"


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_is_gone_leaves_nothing(vm: Vm, session: Session) -> None:
    with serving(session, "flood"), vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]
        for number in range(50):
            client.call("forward.connect", forward=opened, stream=number)
        assert session.show()["forwards"] == [{"port": 3000, "connections": 50}]
        client.close()
        wait_for(lambda: session.show()["forwards"] == [])


@pytest.mark.usefixtures("unharmed")
def test_more_than_a_window_is_refused(vm: Vm, session: Session) -> None:
    with serving(session, "deaf"), vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]
        client.call("forward.connect", forward=opened, stream=1)
        with pytest.raises(SeraiError, match="on their way"):
            for _ in range(100):
                client.call("forward.data", stream=1, data="A" * (512 << 10))
        with pytest.raises(SeraiError, match="a stream 1 already"):
            client.call("forward.connect", forward=opened, stream=1)
        client.call("forward.end", stream=1)
        client.call("forward.close", forward=opened)
        wait_for(lambda: session.show()["forwards"] == [])


@pytest.mark.usefixtures("unharmed")
def test_bytes_may_follow_a_request_to_connect_and_too_many_end_it(
    vm: Vm, session: Session
) -> None:
    with serving(session, "echo"), vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]

        def say(method: str, **params: object) -> bytes:
            return jsonrpc.notification(method, params)

        _, connecting = client.request("forward.connect", {"forward": opened, "stream": 1})
        client.socket.sendall(connecting + say("forward.data", stream=1, data="YQ=="))
        assert news(client) == {"stream": 1, "data": "YQ==", "eof": False}
        # Notifications of a stream that is not there concern nobody.
        client.socket.sendall(say("forward.taken", stream=2) + say("forward.end", stream=2))
        client.socket.sendall(say("forward.data", stream=1, data="A" * (512 << 10)))
        assert news(client) == {"stream": 1, "reset": True}
        assert session.show()["forwards"] == [{"port": 3000, "connections": 0}]


@pytest.mark.usefixtures("unharmed")
def test_a_frozen_session_keeps_what_is_open_and_lets_nothing_in(vm: Vm, session: Session) -> None:
    with serving(session, "echo"), session.forward(3000) as url, reach(url) as end:
        with frozen(vm, session):
            end.sendall(b"a")
            assert turned_away(url)
            with vm.client() as client, pytest.raises(SeraiError, match="frozen") as caught:
                client.call("forward.open", name=session.name, port=3000)
            assert caught.value.code == WRONG_STATE
        vm.call("reopen", name=session.name)
        assert end.recv(1) == b"a"


COOKIES = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.headers.get("Cookie"), flush=True)
        self.send_response(200)
        self.send_header("Set-Cookie", f"login={sys.argv[1]}; HttpOnly; SameSite=Strict")
        self.end_headers()
# A browser opens connections before it has something to ask, and keeps them.
http.server.ThreadingHTTPServer(("127.0.0.1", 3001), Handler).serve_forever()
"""


def test_a_browser_keeps_the_cookies_of_sessions_apart_by_their_names(vm: Vm) -> None:
    with connect(f"unix://{vm.paths.control}") as there, chromium() as page:
        one, two = there.create(), there.create()
        jobs = [each.start(["python3", "-c", COOKIES, each.name]) for each in (one, two)]
        with one.forward(3001) as first, two.forward(3001) as second:
            wait_for(lambda: answers(first) and answers(second))
            for url, each in ((first, one), (second, two)):
                page.get(url.replace("127.0.0.1", f"{each.name}.localhost"))
            stolen = f"login={one.name}\n".encode()
            assert stolen not in b"".join(jobs[1].output())
            for url in (first, second):  # without the names, it does not
                page.get(url)
            wait_for(lambda: stolen in b"".join(jobs[1].output()))
        for each in (one, two):
            each.remove()


def answers(url: str) -> bool:
    """Whether a server is there by now."""
    try:
        return bool(urllib.request.urlopen(url, timeout=DEADLINE).status)  # noqa: S310  # ours
    except OSError:
        return False


def test_a_library_keeps_no_forward_that_was_closed(session: Session) -> None:
    for _ in range(3):
        with session.forward(3000):
            pass
    with session.forward(3000) as url:
        assert session.vm._forwards == [url]


@pytest.mark.parametrize("way", ["stop", "archive", "remove", "remove frozen"])
@pytest.mark.usefixtures("unharmed")
def test_a_forward_ends_with_its_session(vm: Vm, session: Session, way: str) -> None:
    with serving(session, "flood"), session.forward(3000) as url, reach(url) as end:
        assert end.recv(1)
        way, _, cold = way.partition(" ")
        with frozen(vm, session) if cold else contextlib.nullcontext():
            vm.call(way, name=session.name)
        wait_for(lambda: url.ended)
        assert url.ended == f"session {session.name} has stopped"
        rest(end)
        with pytest.raises(ConnectionRefusedError):
            reach(url)
        if way != "remove":
            vm.call("reopen", name=session.name)
            assert session.show()["forwards"] == []


@pytest.mark.usefixtures("unharmed")
def test_the_daemon_stays_in_its_own_network(vm: Vm, session: Session) -> None:
    assert vm.daemon is not None
    with serving(session, "echo"), session.forward(3000) as url:
        for _ in range(10):
            with reach(url) as end:
                end.sendall(b"a")
                assert end.recv(1) == b"a"
    own = Path("/proc/self/ns/net").stat().st_ino
    threads = Path(f"/proc/{vm.daemon.pid}/task")

    def at_home() -> bool:
        with contextlib.suppress(OSError):  # one that made sockets is just ending
            return {(each / "ns/net").stat().st_ino for each in threads.iterdir()} == {own}
        return False

    wait_for(at_home)


def test_a_server_that_accepts_nobody_is_given_up(vm: Vm, session: Session) -> None:
    assert vm.stop() == 0
    vm.start(weaken="from serai.runtime.sandbox import dial; dial.PATIENCE = 1.0")
    with serving(session, "nobody", backlog=0), vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]
        dials = [
            client.ask("forward.connect", {"forward": opened, "stream": number})
            for number in range(8)
        ]
        assert vm.call("version")["protocol"] == 1  # nobody waits for it
        codes = []
        for number in dials:
            try:
                client.wait(number)
            except SeraiError as error:
                codes.append(error.code)
        assert set(codes) == {TIMEOUT}
    assert vm.stop() == 0
    vm.start()


def test_without_a_window_a_deaf_server_fills_the_daemon(vm: Vm, session: Session) -> None:
    assert vm.stop() == 0
    vm.start(weaken="from serai.common import streams; streams.WINDOW = 1 << 40")
    with serving(session, "deaf"), vm.client() as client:
        opened = client.call("forward.open", name=session.name, port=3000)["forward"]
        client.call("forward.connect", forward=opened, stream=1)
        before = memory(vm)
        for _ in range(100):
            client.call("forward.data", stream=1, data="A" * (512 << 10))
        assert memory(vm) - before > 20 << 20
    assert vm.stop() == 0
    vm.start()


def news(client: jsonrpc.Client) -> dict[str, object]:
    """What the next notification says."""
    while "method" not in (message := client.message()):
        pass
    return dict(message["params"])


def memory(vm: Vm) -> int:
    """Bytes of memory of the daemon."""
    assert vm.daemon is not None
    status = Path(f"/proc/{vm.daemon.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) << 10


def rest(end: socket.socket) -> bytes:
    """All that comes until the end, or until a reset."""
    try:
        return received(end)
    except ConnectionError:
        return b""
