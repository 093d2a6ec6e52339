"""The one exception a person at the build host ever sees."""

from __future__ import annotations

from pathlib import Path


class BuildError(Exception):
    """Something a person can act on; printed as one line, never as a traceback.

    ``message`` says what happened and to what, ``hint`` what to do about it, ``log`` where the
    details are.
    """

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        parts = [self.message.rstrip(".")]
        if self.hint:
            parts.append(self.hint.rstrip("."))
        if self.log is not None:
            parts.append(f"details: {self.log}")
        return "; ".join(parts)
