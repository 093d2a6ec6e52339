"""``serai --vm ADDRESS exec``: a payload of a VM elsewhere, with this process's input and output.

No descriptor passes there, so every byte goes through the connection: ``exec.output`` comes, and
``exec.input``, ``exec.signal`` and ``exec.resize`` go. The payload belongs to the connection. If
that breaks, the payload ends, and is not run again.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import signal
import stat
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import GONE, SeraiError
from serai.runtime.cli.exec_core import (
    FAILED,
    FORWARDED,
    STATUSES,
    Failure,
    Options,
    status_of,
)
from serai.runtime.cli.exec_json import parameters, show
from serai.runtime.cli.exec_relay import MOST_KEPT, raw_mode, size
from serai.runtime.dialogue import AHEAD
from serai.runtime.remote import VmClient

CHUNK = 48 << 10
AT_ONCE = 1 << 20
OUTPUTS = {"stdout": 1, "stderr": 2}


def run(options: Options) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    try:
        with VmClient(options.vm) as client:
            if options.detach:
                started = client.call("exec", **parameters(options), detach=True, stdio="null")
                if options.json:
                    show(started)
                return 0
            return Remote(client, options).run()
    except SeraiError as error:
        raise Failure(str(error), STATUSES.get(error.code, FAILED)) from None


class Remote:
    """One payload. Nothing is read before what was read last is written, and nothing waits but
    for all at once: a signal goes on although nobody reads the output.
    """

    def __init__(self, client: VmClient, options: Options) -> None:
        self._client = client
        self._options = options
        self._exec = ""
        self._early: list[str] = []
        self._rests: dict[int, memoryview] = {}
        self._ends = {end: _unwaiting(end) for end in (1, 2)}
        self._kept: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self._size = 0
        self._reads = not (options.json and os.isatty(0))
        self._ahead: set[int] = set()
        self._signals = _wakened([*FORWARDED, *([signal.SIGWINCH] if options.tty else [])])

    def run(self) -> int:
        """Run it; returns the exit status. Raises SeraiError or Failure."""
        rows, columns = size()
        number = self._client.ask(
            "exec",
            {
                **parameters(self._options),
                "stdio": self._client.stdio,
                "rows": rows,
                "columns": columns,
            },
        )
        try:
            with contextlib.nullcontext() if not self._options.tty else raw_mode():
                answer = self._carry(number)
        except SeraiError as error:
            if error.code == GONE:
                hint = "the command ends with its connection, and was not run again"
                raise SeraiError(error.message, hint, GONE) from None
            raise
        if self._options.json:
            if self._size > MOST_KEPT:
                raise Failure(f"more than {MOST_KEPT} bytes were written; the exec was ended")
            show(answer, self._kept[1], self._kept[2])
        return status_of(answer)

    def _carry(self, number: int) -> dict[str, Any]:
        """Carry bytes until the answer is there, and all that came before it is written."""
        answer: dict[str, Any] | None = None
        while True:
            answer = self._messages(number) if answer is None else answer
            if answer is not None and not self._rests:
                return answer
            poll = select.poll()
            for end in self._rests:
                poll.register(end, select.POLLOUT)
            poll.register(self._signals, select.POLLIN)
            if answer is None and not self._rests:
                poll.register(self._client.fileno(), select.POLLIN)
            if answer is None and self._exec and self._reads and len(self._ahead) < AHEAD:
                poll.register(0, select.POLLIN)
            self._serve(dict(poll.poll()))

    def _serve(self, ready: dict[int, int]) -> None:
        for end in [end for end in self._rests if end in ready]:
            self._write(end)
        if self._signals in ready:
            for each in os.read(self._signals, 4096):
                self._signal(each)
        if self._client.fileno() in ready:
            self._client.receive()
        if 0 in ready:
            self._read()

    def _messages(self, number: int) -> dict[str, Any] | None:
        """Take messages until one is to be written; the answer if it is among them."""
        while not self._rests and (message := self._client.buffered()) is not None:
            if message.get("id") == number:
                try:
                    result: dict[str, Any] = jsonrpc.answered(message)
                except SeraiError as error:
                    raise self._client.explained(error) from None
                return result
            self._ahead.discard(message.get("id", 0))
            news = message.get("params", {})
            if message.get("method") == "exec.started":
                self._exec = news["exec"]
                for name in self._early:
                    self._tell("exec.signal", signal=name)
            elif message.get("method") == "exec.output":
                self._take(OUTPUTS[news["stream"]], jsonrpc.output(news))
        return None

    def _take(self, end: int, data: bytes) -> None:
        if not self._options.json:
            self._rests[end] = memoryview(data)
            return
        self._size += len(data)
        if self._size <= MOST_KEPT:
            self._kept[end] += data
        else:
            self._tell("exec.signal", signal="KILL")

    def _write(self, end: int) -> None:
        rest = self._rests.pop(end)
        try:
            own, most = self._ends[end]
            rest = rest[os.write(own, rest[:most]) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            # As a payload here would notice when it writes again.
            self._signal(signal.SIGHUP)
            return
        except OSError as error:
            raise Failure(f"what the command wrote is not complete: {error.strerror}") from None
        if rest:
            self._rests[end] = rest

    def _read(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal's way to say that it ended
            data = b""
        self._reads = bool(data)
        if not data and self._options.tty:
            data = b"\x04"
        text = base64.b64encode(data).decode()
        params = {"exec": self._exec, "data": text, "eof": not data}
        self._ahead.add(self._client.ask("exec.input", params))

    def _signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            rows, columns = size()
            self._tell("exec.resize", rows=rows, columns=columns)
        elif number in FORWARDED and not self._exec:
            self._early.append(FORWARDED[number])
        elif number in FORWARDED:
            self._tell("exec.signal", signal=FORWARDED[number])

    def _tell(self, method: str, **params: Any) -> None:
        if self._exec:
            self._client.ask(method, {"exec": self._exec, **params})


def _unwaiting(end: int) -> tuple[int, int]:
    """A descriptor for what is open at ``end``, and how much may be written to it at once.

    A write that waits would keep all else waiting. A pipe is opened once more, since O_NONBLOCK
    counts for everybody who shares an open file. Where that can't be, it is never more than a pipe
    surely takes. A file does not wait for a reader.
    """
    with contextlib.suppress(OSError):
        kind = stat.S_IFMT(os.fstat(end).st_mode)
        if kind == stat.S_IFREG:
            return end, AT_ONCE
        if kind == stat.S_IFIFO:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{end}", flags), AT_ONCE
    return end, select.PIPE_BUF


def _wakened(numbers: list[int]) -> int:
    """From now on these signals do nothing but come as bytes from the descriptor returned."""
    reading, told = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reading
