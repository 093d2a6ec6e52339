"""What is said about one call that streams. Nothing here does input or output.

``Client`` and ``Process`` wait on a socket with a ``Dialogue``, and ``serai.runtime.library_async``
in an event loop: each gives it what comes, and asks it what there is and what may be sent.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator
from typing import Any

from serai.common import jsonrpc
from serai.common.jsonrpc import CHUNK

AHEAD = 8
"""Parts of an input that are on their way at once: a far VM need not be waited for each time."""
Piece = tuple[str, bytes]
"""``stdout`` or ``stderr``, and what was written there."""


class Dialogue:
    """The messages about the call that the request ``number`` made."""

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

    def take(self, message: dict[str, Any]) -> bool:
        """Note what came; false if it is about something else."""
        event, news = message.get("method"), message.get("params", {})
        if message.get("id", 0) in (self._number, None):  # null: sessiond refused the connection
            self._answer = message
        elif event == "exec.started":
            self.exec = news["exec"]
        elif event == "exec.output":
            data = jsonrpc.output(news)
            self._pieces.append((news["stream"], data))
            self.kept += len(data)
        elif message.get("id") in self._ahead:
            # Not just any answer: one to an earlier payload's input may come late.
            self._ahead.discard(message["id"])
        else:
            return False
        return True

    def piece(self) -> Piece | None:
        """The next piece of output, if one has come."""
        if not self._pieces:
            return None
        name, data = self._pieces.popleft()
        self.kept -= len(data)
        return name, data

    def input(self, data: bytes) -> dict[str, Any]:
        """The parameters that give it a part of its input; the empty one is the end of it."""
        return {"exec": self.exec, "data": base64.b64encode(data).decode(), "eof": not data}

    def result(self) -> dict[str, Any]:
        """The answer. Raises SeraiError if it is an error."""
        return dict(jsonrpc.answered(self._answer or {}))


def parts(data: bytes) -> Iterator[bytes]:
    """An input in parts that fit into a message."""
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def whole(data: bytes) -> Iterator[bytes]:
    """The same, and the empty part that says that it is all of it."""
    yield from parts(data)
    yield b""
