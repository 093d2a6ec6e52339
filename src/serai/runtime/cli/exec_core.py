"""What all ways of running a payload from the shell share: the connection to sessiond, and words.

It is imported by the command that is run most, so it imports next to nothing. The interpreter's own
modules in C (``_socket``, ``_json``, ``posix``) do what ``socket``, ``json`` and ``os`` would do
after 10 to 20 ms of importing. For the same reason this is the only file that writes and reads
JSON-RPC by hand; all others have serai.common.jsonrpc.
"""

from __future__ import annotations

import _json
import _signal
import _socket
import posix
import select
import sys

from serai.common import stdio

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing, which type checkers know
if TYPE_CHECKING:
    from typing import Any

FORWARDED = {1: "HUP", 2: "INT", 3: "QUIT", 10: "USR1", 12: "USR2", 15: "TERM"}
CONTROL = "/run/serai/control.sock"
FAILED = 125  # as timeout(1) and env(1) say that they themselves failed
NOT_EXECUTABLE, NOT_FOUND = 126, 127
STATUSES = {10: NOT_FOUND, 11: NOT_EXECUTABLE}
"""The exit status that a code of serai.common.errors means; for any other it is FAILED."""
OUT_OF_MEMORY = (
    "out of memory: the kernel killed a process of the session;"
    " its limit is its own ('serai show'), or 'memory_max' in /etc/serai/session.toml; the VM's own"
    " memory has an end, too"
)


class Failure(Exception):  # noqa: N818  # a word of its own, as StopIteration has
    """What to print on stderr, in one line, and the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class Options:
    """What the command line asks for; ``serai.runtime.cli.exec`` reads it."""

    def __init__(self) -> None:
        self.name = ""
        self.argv: list[str] = []
        self.env: dict[str, str] = {}
        self.cwd = ""
        self.timeout = 0.0
        self.tty = self.detach = self.json = self.help = False
        self.vm = vm()


class Channel:
    """The connection to sessiond, for one payload.

    Signals come as bytes from ``signals``, once ``take_signals`` was called. Whoever waits waits
    for them, too: Python runs a handler between two steps of its own, and a signal that came
    just before a system call that waits would be noticed after it only.
    """

    def __init__(self, path: str) -> None:
        fresh = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.socket = _socket.socket(fileno=stdio.above(fresh.detach()))
        self.signals = -1
        self.exec = ""
        self.received: list[int] = []
        self._buffer = b""
        self._early: list[str] = []
        try:
            self.socket.connect(path)
        except OSError as error:
            from serai.runtime.client import unreachable  # noqa: PLC0415  # see above

            raise Failure(str(unreachable(path, error))) from None

    def send(self, method: str, params: str, *, answer: bool, fds: tuple[int, ...] = ()) -> None:
        """Send a request (id 1) or a notification; ``params`` is JSON."""
        number = '"id":1,' if answer else ""
        line = f'{{"jsonrpc":"2.0",{number}"method":"{method}","params":{params}}}\n'.encode()
        raw = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, raw)] if fds else []
        try:
            sent = self.socket.sendmsg([line], rights)
            self.socket.sendall(line[sent:])
        except OSError as error:
            raise Failure(f"sessiond does not listen any more: {error.strerror}") from None

    def take_signals(self) -> None:
        """From now on signals do nothing but wait to be passed on."""
        self.signals, told = posix.pipe()
        posix.set_blocking(self.signals, False)
        posix.set_blocking(told, False)
        _signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in FORWARDED:
            _signal.signal(number, lambda *_: None)

    def ready(self, wanted: dict[int, int], timeout: int | None = None) -> dict[int, int]:
        """What of the descriptors' events has happened; waits, and passes signals on meanwhile."""
        poll = select.poll()
        for descriptor, events in {**wanted, self.signals: select.POLLIN}.items():
            poll.register(descriptor, events)
        while True:
            found = dict(poll.poll(timeout))
            if found.pop(self.signals, 0):
                for number in posix.read(self.signals, 4096):
                    self.signal(FORWARDED.get(number, ""))
            if found or timeout is not None:
                return found

    def signal(self, name: str) -> None:
        """Pass a signal on, at the latest when the payload runs."""
        if not self.exec:
            self._early.append(name)
        elif name:
            params = f'{{"exec":{quoted(self.exec)},"signal":"{name}"}}'
            self.send("exec.signal", params, answer=False)

    def typed(self) -> None:
        """Say that there is input. It passes sessiond by, but wakes a session that idled."""
        self.send("exec.input", f'{{"exec":{quoted(self.exec)}}}', answer=False)

    def wait(self) -> dict[str, Any]:
        """Read until the payload has ended; returns the answer."""
        while True:
            answer = self.read()
            if answer is not None:
                return answer

    def read(self) -> dict[str, Any] | None:
        """Read once; the answer to the request if it is among what came. Raises Failure."""
        self.ready({self.socket.fileno(): select.POLLIN})
        rights = _socket.CMSG_SPACE(4) if hasattr(_socket, "CMSG_SPACE") else 32
        flags = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
        data, ancillary, _, _ = self.socket.recvmsg(65536, rights, flags)
        for _, kind, content in ancillary:
            if kind == _socket.SCM_RIGHTS:
                self.received.append(int.from_bytes(content[:4], sys.byteorder))
        if not data:
            raise Failure("sessiond went away; the command ends with it")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = decoded(line.decode())
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            if "error" in message:
                raise _refused(message["error"])
            if message["method"] == "exec.started":
                self.exec = message["params"]["exec"]
                for name in self._early:
                    self.signal(name)
        return None


class _Context:
    """What the scanner in C wants to know (json.decoder.JSONDecoder's attributes)."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012  # never written: the C code has its own


def decoded(text: str) -> Any:
    """The JSON value in ``text``, without importing json."""
    return _json.make_scanner(_Context)(text, 0)[0]  # type: ignore[arg-type]


def quoted(text: str) -> str:
    """A text as JSON; bytes that are no UTF-8 go as Python's lone surrogates."""
    return _json.encode_basestring_ascii(text)


def request(options: Options, stdio: str, rows: int = 24, columns: int = 80) -> str:
    """The parameters of ``exec`` as JSON."""
    variables = ",".join(f"{quoted(key)}:{quoted(value)}" for key, value in options.env.items())
    fields = [
        f'"name":{quoted(options.name)}',
        f'"argv":[{",".join(map(quoted, options.argv))}]',
        f'"env":{{{variables}}}',
        f'"cwd":{quoted(options.cwd)}',
        f'"timeout":{options.timeout or "null"}',
        f'"tty":{"true" if options.tty else "false"}',
        f'"detach":{"true" if options.detach else "false"}',
        f'"stdio":"{stdio}","rows":{rows},"columns":{columns}',
    ]
    return "{" + ",".join(fields) + "}"


def vm() -> str:
    """The address of the VM that is meant, if it is not this one: SERAI_VM, which --vm sets."""
    return posix.environ.get(b"SERAI_VM", b"").decode()


def control() -> str:
    """The control socket's path; SERAI_CONTROL overrides it."""
    return posix.environ.get(b"SERAI_CONTROL", CONTROL.encode()).decode()


def status_of(answer: dict[str, Any]) -> int:
    """The exit status that an answer to ``exec`` means; 0 for a detached payload.

    What else it says goes to stderr. That processes were ended only a person wants to know.
    """
    status = answer.get("status", 0)
    if status and answer.get("out_of_memory"):
        sys.stderr.write(f"serai: {OUT_OF_MEMORY}\n")
    if status and (refused := answer.get("refused")) and posix.isatty(2):
        sys.stderr.write("".join(f"serai: {refusal(each)}\n" for each in refused))
    if (left := answer.get("left")) and posix.isatty(2):
        sys.stderr.write(f"serai: {left} process(es) ended with it; 'serai start' keeps a server\n")
    return status if isinstance(status, int) else FAILED


def refusal(refused: dict[str, Any]) -> str:
    """What the sandbox refused, for a person."""
    count, programs = refused["times"], ", ".join(refused["programs"])
    times = "once" if count == 1 else f"{count} times"
    return (
        f"refused: {refused['what']} ({times}, {programs});"
        " if that is why, 'serai create --sandbox sockets' makes a session that has them"
    )


def _refused(error: object) -> Failure:
    assert isinstance(error, dict)  # noqa: S101  # sessiond's own
    hint = error.get("data", {}).get("hint", "")
    status = STATUSES.get(error["code"], FAILED)
    return Failure(f"{error['message']}; {hint}" if hint else error["message"], status)
