"""A command of a session while it runs: its output piece by piece, and input meanwhile.

``Dialogue`` knows the messages and does no input or output. ``Process`` waits on a socket with it,
and ``serai.runtime.library_async`` in an event loop. The command has a connection of its own, and
ends when that is closed.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import TOO_LARGE, SeraiError
from serai.common.jsonrpc import CHUNK
from serai.runtime.client import AHEAD, MOST_OUTPUT, OUTPUTS, Client, Completed

Piece = tuple[str, bytes]
"""``stdout`` or ``stderr``, and what was written there."""


class Dialogue:
    """What was said about one call that streams."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pieces: deque[Piece] = deque()
        self._answer: dict[str, Any] | None = None
        self._ahead: set[int] = set()
        self.exec = ""
        self.kept = 0

    @property
    def over(self) -> bool:
        """Whether all has come that will."""
        return self._answer is not None

    @property
    def full(self) -> bool:
        """Whether as much input is on its way as may be."""
        return len(self._ahead) >= AHEAD

    def sent(self, number: int) -> None:
        """Note that input was sent by the request ``number``."""
        self._ahead.add(number)

    def take(self, message: dict[str, Any]) -> None:
        """Note what came."""
        news = message.get("params", {})
        if message.get("id") == self._number:
            self._answer = message
        elif message.get("method") == "exec.started":
            self.exec = news["exec"]
        elif message.get("method") == "exec.output":
            data = jsonrpc.output(news)
            self._pieces.append((news["stream"], data))
            self.kept += len(data)
        else:
            self._ahead.discard(message.get("id", 0))

    def piece(self) -> Piece | None:
        """The next piece of output, if one has come."""
        if not self._pieces:
            return None
        name, data = self._pieces.popleft()
        self.kept -= len(data)
        return name, data

    def result(self) -> dict[str, Any]:
        """The answer. Raises SeraiError if it is an error."""
        return dict(jsonrpc.answered(self._answer or {}))


def inputs(data: bytes) -> Iterator[dict[str, Any]]:
    """The parameters that carry ``data``, but for whose it is."""
    for at in range(0, len(data), CHUNK):
        yield {"data": base64.b64encode(data[at : at + CHUNK]).decode()}


class Process:
    """A command that runs. Iterate over it for its output; ``with`` ends it."""

    def __init__(self, client: Client, params: dict[str, Any]) -> None:
        """``client`` is its own from now on. Raises SeraiError if it can't be started."""
        self._client = client
        try:
            self._dialogue = Dialogue(client.ask("exec", {**params, "stdio": client.stdio}))
            while not (self._dialogue.exec or self._dialogue.over):
                self._receive()
            if not self._dialogue.exec:
                self._dialogue.result()
        except BaseException:
            client.close()
            raise

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it still runs."""
        self._client.close()

    def __iter__(self) -> Iterator[Piece]:
        """Its output as it comes, until it has ended. Whoever reads slowly slows it down."""
        while True:
            if (piece := self._dialogue.piece()) is not None:
                yield piece
            elif self._dialogue.over:
                return
            else:
                self._receive()

    def write(self, data: bytes) -> None:
        """Give it input. What it writes meanwhile is kept. Raises SeraiError."""
        for each in inputs(data):
            self._input(each)

    def close_input(self) -> None:
        """It gets no more input. Raises SeraiError."""
        self._input({"eof": True})

    def signal(self, name: str) -> None:
        """Send its process group a signal, such as INT. Raises SeraiError."""
        self._tell("exec.signal", {"signal": name})

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal has another size. Raises SeraiError."""
        self._tell("exec.resize", {"rows": rows, "columns": columns})

    def wait(self) -> Completed:
        """Wait for its end, and forget what it writes until then. Raises SeraiError."""
        for _ in self:
            pass
        return completed(self._dialogue, [])

    def _input(self, params: dict[str, Any]) -> None:
        while self._dialogue.full and not self._dialogue.over:
            self._receive()
            if self._dialogue.kept > MOST_OUTPUT:
                raise SeraiError("more output was kept than there is room for", "", TOO_LARGE)
        if not self._dialogue.over:
            self._dialogue.sent(self._tell("exec.input", params))

    def _tell(self, method: str, params: dict[str, Any]) -> int:
        return self._client.ask(method, {"exec": self._dialogue.exec, **params})

    def _receive(self) -> None:
        self._dialogue.take(self._client.message())


def completed(dialogue: Dialogue, pieces: list[Piece]) -> Completed:
    """How it ended. Raises SeraiError."""
    out, err = (b"".join(data for name, data in pieces if name == each) for each in OUTPUTS)
    return Completed(**dialogue.result(), stdout=out, stderr=err)
