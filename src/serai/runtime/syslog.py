"""Forwards the audit log to a syslog server: RFC 5424 to a Unix socket, or by TCP (RFC 6587).

The problem. Syslog has no answers. What a server's socket took it may not have read, and if it is
started again, or we are, lines could be lost or come twice.

The idea. What is sent has the number (seq) that the line has in the log, and a file, the cursor,
has the number that was sent last. It changes after each line. So a kill -9 between the two doubles
one line, which has the same seq, and an orderly end none.

- A Unix socket: a line counts as sent when the server has read it. The kernel says so (SIOCOUTQ),
  and a server that closes its socket meanwhile is found by connecting once more.
- TCP: every few lines have a connection. When the server closes it without an error, it has read
  all of them: a socket that is closed with unread bytes sends a reset (RFC 2525, 2.17). After a
  reset all lines since the last such end are sent again, and some may come twice.

A message is the line itself, so its SHA-256 is ``hash`` in the structured data, and the next line
names it as ``prev``: a receiver can check the chain as ``serai audit --verify`` does. ``lost`` are
lines that were removed from the log before they could be sent. ``chain="broken"`` means that the
line before was another one when it was sent. ``log="new"`` means that numbers begin again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import re
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serai.common import files, tables
from serai.common.errors import SeraiError
from serai.common.jsonrpc import Client
from serai.common.paths import Paths
from serai.common.tables import setting
from serai.runtime import entries
from serai.runtime.entries import Entry

log = logging.getLogger("serai.syslog")
PAGE = 200
CONNECTION = 20
"""Lines of a connection: as many may come twice when the server breaks it."""
POLL = 0.5
SHORTEST, LONGEST = 0.5, 30.0
"""Seconds before a server that is away is tried again: twice as long each time."""
PATIENCE = 10.0
"""Seconds for what answers at once if it is well."""
SPIN = 0.002
"""Seconds in which a server that has nothing else to do reads a line."""
ENTERPRISE = "serai@32473"
"""The name of our structured data; 32473 is for documentation (RFC 5612), we have no number."""
NOTICE, INFO, CRITICAL = 5, 6, 2
CUT = 8 << 10
"""Bytes that are left of a line for a socket that takes no longer datagram."""
ANEW = 5
"""Looks after which a log that ends before the cursor is another one."""
_CRITICAL = frozenset(("missing", "changed", entries.UNREADABLE))
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


def _address(text: str) -> str:
    if text and not text.startswith("/") and not _TCP.fullmatch(text):
        raise ValueError("it is neither the absolute path of a socket nor tcp://HOST:PORT")
    return text


@dataclass(frozen=True)
class Settings:
    """Where the audit log goes, and as what."""

    address: str = setting(
        "",
        "the server: the absolute path of a Unix datagram socket, or `tcp://HOST:PORT`",
        parse=_address,
    )
    facility: int = setting(13, "number of the facility; 13 is audit", minimum=0, maximum=23)


@dataclass(frozen=True)
class Cursor:
    """The last line that was sent, and its hash, '' if that is not known."""

    seq: int = 0
    hash: str = "0" * 64


class Way(Protocol):
    """A way to the server. Each raises OSError: what was sent may not have been read then."""

    def settled(self) -> bool:
        """Whether all that was sent has been read, for all that is known now."""

    def send(self, message: bytes) -> None:
        """Send one."""

    def finish(self) -> None:
        """Return when all that was sent has been read."""


class BySocket:
    """The server's Unix socket."""

    def __init__(self, path: str, stopped: Callable[[], bool]) -> None:
        self._path = path
        self._stopped = stopped
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.settimeout(PATIENCE)

    def settled(self) -> bool:
        return True

    def send(self, message: bytes) -> None:
        socket_then = _identity(self._path)
        self._sock.connect(self._path)  # to who is there now
        try:
            self._sock.send(message)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._sock.send(message[:CUT])
        # At first without a pause, in which the server could read it and then close.
        end = time.monotonic() + SPIN
        while _unread(self._sock) and not self._stopped():
            time.sleep(0.001 if time.monotonic() > end else 0)
        # A socket that is closed throws away what it has not read, and another may take its place.
        self._sock.connect(self._path)
        if _identity(self._path) != socket_then:
            raise ConnectionResetError(errno.ECONNRESET, "the server was started again")

    def finish(self) -> None:
        pass


class ByTcp:
    """Connections to the server by TCP, one after another."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host.strip("[]"), port
        self._sock: socket.socket | None = None

    def settled(self) -> bool:
        if self._sock is None:
            return True
        self._sock.settimeout(0)
        try:
            while self._sock.recv(4096):
                pass
            self._check()
        except BlockingIOError:
            self._sock.settimeout(PATIENCE)
            return False
        except OSError:
            self._close()
            raise
        self._close()
        return True

    def send(self, message: bytes) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(self._place, PATIENCE)
            self._sock.settimeout(PATIENCE)
        try:
            self._sock.sendall(b"%d %s" % (len(message), message))
        except OSError:
            self._close()
            raise

    def finish(self) -> None:
        if self._sock is None:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
            try:
                while self._sock.recv(4096):
                    pass
            except TimeoutError as error:
                if error.errno is not None or _unread(self._sock):
                    raise
                # It does not close, but its kernel has all, and nothing went wrong.
            self._check()
        finally:
            self._close()

    def _check(self) -> None:
        """Raise OSError unless all was taken before the other end was closed."""
        assert self._sock is not None  # noqa: S101
        end = time.monotonic() + PATIENCE
        while _unread(self._sock) and time.monotonic() < end:
            time.sleep(0.005)
        if code := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "the server closed the connection before it had read all")

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Courier:
    """Carries entries from ``read`` to ``way``, and keeps the cursor in ``file``.

    ``read`` gets the number after which entries are wanted, as the method ``audit`` does.
    """

    def __init__(
        self,
        read: Callable[[int], dict[str, Any]],
        way: Way,
        file: Path,
        facility: int,
        stop: threading.Event,
    ) -> None:
        self._read = read
        self._way = way
        self._file = file
        self._facility = facility
        self._host = _host()
        self._sent = self._settled = _load(file)
        self._behind = 0
        self._anew = False
        self.stop = stop

    def run(self) -> None:
        """Forward until stopped."""
        pause, away = SHORTEST, ""
        while not self.stop.is_set():
            try:
                more = self._some()
            except (OSError, SeraiError) as error:
                # What may not have been read is sent again.
                self._move(self._settled, durable=self._settled != self._sent)
                if str(error) != away:
                    log.warning("nothing is forwarded: %s", error)
                away = str(error)
                self.stop.wait(pause)
                pause = min(pause * 2, LONGEST)
                continue
            if away:
                log.info("entries are forwarded again")
            pause, away = SHORTEST, ""
            if not more:
                self.stop.wait(POLL)

    def _some(self) -> bool:
        """Forward a page of entries; false if there were none."""
        found = self._read(self._sent.seq)
        if not found["entries"]:
            self._behind = self._behind + 1 if found["last"] < self._sent.seq else 0
            if self._behind >= ANEW:
                log.error("the log ends at %d: it is another one", found["last"])
                self._behind, self._anew = 0, True
                self._move(Cursor(), durable=True)
                self._settled = self._sent
            return False
        for entry in found["entries"]:
            if self.stop.is_set():
                break
            if self._way.settled():
                self._settled = self._sent
            self._way.send(self._message(entry))
            self._anew = False
            self._move(Cursor(entry["seq"], entries.digest(entry)))
        self._way.finish()
        self._settled = self._sent
        self._move(self._sent, durable=True)
        return True

    def _message(self, entry: Entry) -> bytes:
        seq, digest = entry["seq"], entries.digest(entry)
        data = {"seq": str(seq), "hash": digest, "log": "new" if self._anew else ""}
        if seq > self._sent.seq + 1:
            data["lost"] = f"{self._sent.seq + 1}-{seq - 1}"
            log.error("entries %s were removed before they were forwarded", data["lost"])
        elif digest and self._sent.hash and entry["prev"] != self._sent.hash:
            data["chain"] = "broken"
            log.error("entry %d does not follow the one that was forwarded", seq)
        severity = _severity(entry)
        if "chain" in data:
            severity = CRITICAL
        elif "lost" in data:
            severity = min(severity, NOTICE)
        head = (
            f"<{self._facility * 8 + severity}>1 {entry.get('time', '-')} {self._host}"
            f" serai-audit - {entry['event'][:32]}"
        )
        marks = "".join(f' {key}="{value}"' for key, value in data.items() if value)
        return f"{head} [{ENTERPRISE}{marks}] {entries.line(entry)}".encode("ascii")

    def _move(self, cursor: Cursor, *, durable: bool = False) -> None:
        if cursor != self._sent or durable:
            content = json.dumps({"seq": cursor.seq, "hash": cursor.hash})
            files.write(self._file, content.encode(), 0o600, durable=durable)
        self._sent = cursor


def _severity(entry: Entry) -> int:
    kind = entry["event"]
    if kind in _CRITICAL:
        return CRITICAL
    if kind == "closed" or (kind == "decision" and entry["allowed"]):
        return INFO
    return NOTICE


def _load(file: Path) -> Cursor:
    """Where to go on: at the beginning if there is no cursor. Raises SeraiError."""
    try:
        return tables.read(Cursor, json.loads(file.read_bytes()))
    except FileNotFoundError:
        return Cursor()
    except (OSError, ValueError) as error:
        raise SeraiError(f"cannot read {file}: {error}", "remove it to send all again") from None


def _host() -> str:
    """The VM's name, as a header may have it."""
    name = socket.gethostname()
    return name[:255] if name.isascii() and name.isprintable() and " " not in name else "-"


def _identity(path: str) -> tuple[int, ...]:
    """What another file in the place of a file has otherwise."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _unread(sock: socket.socket) -> int:
    """Bytes that the other end has not taken: SIOCOUTQ, tcp(7) and unix(7)."""
    raw = fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", raw)[0])


def load(path: Path) -> Settings:
    """The settings in a file; the defaults if there is none. Raises SeraiError."""
    hint = "see syslog.toml in docs/settings.md"
    return tables.load(Settings, path, "the settings", hint=hint, absent=Settings())


def reader(control: Path, limit: int) -> Callable[[int], dict[str, Any]]:
    """Asks sessiond, on one connection for as long as that holds."""
    clients: list[Client] = []

    def read(after: int) -> dict[str, Any]:
        if not clients:
            clients.append(Client(control, PATIENCE))
        try:
            found: dict[str, Any] = clients[0].call("audit", after=after, limit=limit)
        except SeraiError:
            clients.pop().close()
            raise
        return found

    return read


def main(arguments: list[str]) -> int:
    """The program as its unit starts it: with the path of the settings, and the cursor's."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        rules = load(Path(arguments[0]))
        if not rules.address:
            raise SeraiError(f"{arguments[0]} has no address", "see docs/settings.md")
        courier = make(rules, Paths().control, Path(arguments[1]))
    except SeraiError as error:
        log.error("%s", error)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: courier.stop.set())
    courier.run()
    return 0


def make(rules: Settings, control: Path, cursor: Path) -> Courier:
    """A courier by these settings. Raises SeraiError."""
    stop = threading.Event()
    way: Way
    if found := _TCP.fullmatch(rules.address):
        way, page = ByTcp(found[1], int(found[2])), CONNECTION
    else:
        way, page = BySocket(rules.address, stop.is_set), PAGE
    return Courier(reader(control, page), way, cursor, rules.facility, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
