"""A command of a session while it runs: its output piece by piece, and input meanwhile.

The command has a connection of its own, and ends when that is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serai.common.errors import TOO_LARGE, SeraiError
from serai.runtime.client import MOST_OUTPUT, OUTPUTS, Client, Completed
from serai.runtime.dialogue import Dialogue, Piece, parts


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

    def __exit__(self, *_: object) -> None:
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
        for each in parts(data):
            self._input(each)

    def close_input(self) -> None:
        """It gets no more input. Raises SeraiError."""
        self._input(b"")

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

    def _input(self, data: bytes) -> None:
        while self._dialogue.full and not self._dialogue.over:
            self._receive()
            if self._dialogue.kept > MOST_OUTPUT:
                raise SeraiError("more output was kept than there is room for", "", TOO_LARGE)
        if not self._dialogue.over:
            self._dialogue.sent(self._client.ask("exec.input", self._dialogue.input(data)))

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        self._client.ask(method, {"exec": self._dialogue.exec, **params})

    def _receive(self) -> None:
        self._dialogue.take(self._client.message())


def completed(dialogue: Dialogue, pieces: list[Piece]) -> Completed:
    """How it ended. Raises SeraiError."""
    out, err = (b"".join(data for name, data in pieces if name == each) for each in OUTPUTS)
    return Completed.of(dialogue.result(), out, err)
