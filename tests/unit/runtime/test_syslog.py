"""The forwarder against servers that go away: no line is lost, and few come twice."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.gate.audit import chain
from serai.runtime import syslog
from serai.runtime.syslog import BySocket, ByTcp, Courier, Settings, Way
from tests.support.audit_logs import opened, paths
from tests.support.waiting import wait_for

MESSAGE = re.compile(
    rb"<(\d+)>1 (\S+) \S+ serai-audit - (\w+) \[serai@32473((?: \w+=\"[^\"\\\]]+\")+)\] (\{.*\})"
)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "SHORTEST", 0.01)
    monkeypatch.setattr(syslog, "LONGEST", 0.01)
    monkeypatch.setattr(syslog, "POLL", 0.01)


def data(message: bytes) -> dict[str, str]:
    """The structured data of a message that is well formed and has the hash of its line."""
    found = MESSAGE.fullmatch(message)
    assert found, message
    pairs = dict(re.findall(r' (\w+)="([^"]+)"', found[4].decode()))
    assert sha256(found[5]).hexdigest() == pairs["hash"]
    assert json.loads(found[5])["seq"] == int(pairs["seq"])
    return {**pairs, "severity": str(int(found[1]) % 8), "msgid": found[3].decode()}


def seqs(messages: list[bytes]) -> list[int]:
    return [int(data(each)["seq"]) for each in messages]


@contextmanager
def forwarding(folder: Path, way: Way, page: int = 7) -> Iterator[Courier]:
    """A forwarder of the log in ``folder``; stopped afterwards, in order."""

    def read(after: int) -> dict[str, Any]:
        found = {"entries": chain.read(folder, after, page), "last": chain.last_seq(folder)}
        return dict(json.loads(json.dumps(found)))

    stop = threading.Event()
    made = Courier(read, way, folder.parent / "cursor", 13, stop)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def fill(folder: Path, count: int, **more: Any) -> None:
    with opened(folder) as log:
        for _ in range(count):
            log.append({"event": "decision", "session": "a", "allowed": True, **more})


class Socket:
    """A server at a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got: list[bytes] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.settimeout(30)

    def take(self, count: int) -> None:
        self.got += [self.sock.recv(1 << 20) for _ in range(count)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Socket]:
    made = Socket(tmp_path / "sock")
    yield made
    made.sock.close()


def test_every_line_is_a_message_with_its_number_and_hash(tmp_path: Path, server: Socket) -> None:
    folder = tmp_path / "audit"
    fill(folder, 3)
    fill(folder, 1, allowed=False)
    server.open()
    with forwarding(folder, BySocket(str(server.path), lambda: False)):
        server.take(4)
        fill(folder, 2)
        server.take(2)
    found = [data(each) for each in server.got]
    assert [each["seq"] for each in found] == list("123456")
    assert [each["severity"] for each in found] == list("666566")
    assert {each["msgid"] for each in found} == {"decision"}
    assert not any("lost" in each or "chain" in each for each in found)


def test_a_server_that_is_away_is_waited_for_and_what_it_had_not_read_comes_again(
    tmp_path: Path, server: Socket
) -> None:
    folder = tmp_path / "audit"
    fill(folder, 20)
    with forwarding(folder, BySocket(str(server.path), lambda: False)) as forwarder:
        server.open()
        server.take(5)
        # The sixth is in the socket, and thrown away with it.
        wait_for(lambda: server.sock.recv(1 << 20, socket.MSG_PEEK))
        server.sock.close()
        server.open()
        server.take(15)
        wait_for(lambda: forwarder._sent.seq == 20)
    assert seqs(server.got) == list(range(1, 21))


def test_it_goes_on_after_the_line_that_was_sent_last(tmp_path: Path, server: Socket) -> None:
    folder = tmp_path / "audit"
    fill(folder, 9)
    server.open()
    for count in (9, 2):
        with forwarding(folder, BySocket(str(server.path), lambda: False)):
            server.take(count)
        fill(folder, 2)
    assert seqs(server.got) == list(range(1, 12))


def test_a_kill_between_a_line_and_the_cursor_doubles_that_line_only(
    tmp_path: Path, server: Socket
) -> None:
    folder = tmp_path / "audit"
    fill(folder, 3)
    server.open()
    way = BySocket(str(server.path), lambda: True)
    entries = chain.read(folder, 0, 9)
    killed = Courier(lambda _: {"entries": entries, "last": 3}, way, tmp_path / "cursor", 13,
                       threading.Event())  # fmt: skip
    moves = iter([lambda *_: None, _die])
    kept = killed._move
    killed._move = lambda *a, **k: (next(moves)(), kept(*a, **k))  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    with forwarding(folder, BySocket(str(server.path), lambda: False)):
        server.take(4)
    assert seqs(server.got) == [1, 2, 2, 3]


def _die() -> None:
    raise KeyboardInterrupt


def test_what_was_pruned_or_changed_is_told(tmp_path: Path, server: Socket) -> None:
    folder = tmp_path / "audit"
    with opened(folder, 600, 100) as log:
        for _ in range(9):
            log.append({"event": "decision", "session": "a", "allowed": True})
    server.open()
    way = BySocket(str(server.path), lambda: False)
    with forwarding(folder, way):
        server.take(9)
    with opened(folder, 600, 100) as log:
        for _ in range(9):
            log.append({"event": "decision", "session": "a", "allowed": True})
    for path in paths(folder)[:-1]:
        path.unlink()
    with forwarding(folder, way):
        server.take(1)
        first = data(server.got[-1])
    assert first["lost"] == f"10-{int(first['seq']) - 1}"
    # Another line stands where the one that was sent stood.
    last = json.loads((tmp_path / "cursor").read_text())
    (tmp_path / "cursor").write_text(json.dumps({**last, "hash": "f" * 64}))
    with opened(folder, 600, 100) as log:
        log.append({"event": "closed", "session": "a"})
    with forwarding(folder, way):
        server.take(1)
    assert {"chain": "broken", "severity": "2"}.items() <= data(server.got[-1]).items()


def test_a_log_that_begins_again_is_another_one(tmp_path: Path, server: Socket) -> None:
    folder, other = tmp_path / "audit", tmp_path / "other"
    fill(folder, 5)
    server.open()
    way = BySocket(str(server.path), lambda: False)
    with forwarding(folder, way):
        server.take(5)
    fill(other, 2)
    with forwarding(other, way):
        server.take(2)
    assert [data(each).get("log") for each in server.got[5:]] == ["new", None]
    assert seqs(server.got[5:]) == [1, 2]


class Tcp:
    """A server that deals with each connection as the next of ``deals`` says, then takes all."""

    def __init__(self, *deals: Callable[[socket.socket], bytes]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.got: list[bytes] = []
        self._deals = list(deals)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                text = (self._deals.pop(0) if self._deals else everything)(client)
                while text:  # before it is closed, by which the forwarder knows that it was read
                    size, _, text = text.partition(b" ")
                    self.got.append(text[: int(size)])
                    text = text[int(size) :]


def everything(client: socket.socket) -> bytes:
    found = b""
    while more := client.recv(1 << 16):
        found += more
    return found


def some(client: socket.socket) -> bytes:
    """Read one message, and leave the others unread."""
    size = b""
    while not size.endswith(b" "):
        size += client.recv(1)
    message = client.recv(int(size), socket.MSG_WAITALL)
    client.recv(1, socket.MSG_PEEK)  # there is more, so closing sends a reset
    return size + message


def nothing(client: socket.socket) -> bytes:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return b""


def test_tcp_has_no_line_lost_where_the_server_breaks_the_connection(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    fill(folder, 40)
    server = Tcp(everything, some, nothing, everything, some)
    with server.listener, forwarding(folder, ByTcp("127.0.0.1", server.port)) as forwarder:
        wait_for(lambda: forwarder._settled.seq == 40)
    found = seqs(server.got)
    assert sorted(set(found)) == list(range(1, 41))
    # Of each page that the server did not read to its end, the line that it had read.
    assert len(found) == 42
    cursor = json.loads((tmp_path / "cursor").read_text())
    assert cursor["seq"] == 40 == chain.last_seq(folder)


def test_tcp_doubles_nothing_where_the_server_has_read_all_before_it_closes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "audit"
    fill(folder, 5)
    server = Tcp()
    with server.listener:
        for _ in range(3):
            with forwarding(folder, ByTcp("127.0.0.1", server.port)) as forwarder:
                wait_for(lambda: forwarder._settled.seq == chain.last_seq(folder))
            fill(folder, 3)
    assert seqs(server.got) == list(range(1, 12))


@pytest.mark.parametrize(
    "address", ["/run/x.sock", "tcp://192.0.2.7:514", "tcp://[2001:db8::1]:6514", ""]
)
def test_an_address_is_a_path_or_a_place(tmp_path: Path, address: str) -> None:
    file = tmp_path / "syslog.toml"
    file.write_text(f'address = "{address}"\n')
    assert syslog.load(file) == Settings(address)


@pytest.mark.parametrize("text", ['address = "udp://a:1"', 'address = "a:1"', "facility = 24"])
def test_others_are_errors(tmp_path: Path, text: str) -> None:
    file = tmp_path / "syslog.toml"
    file.write_text(text)
    with pytest.raises(SeraiError):
        syslog.load(file)


def test_a_cursor_that_is_damaged_is_an_error_and_not_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text("")
    with pytest.raises(SeraiError, match="cannot read"):
        syslog.make(Settings("/x"), tmp_path / "control", tmp_path / "cursor")
