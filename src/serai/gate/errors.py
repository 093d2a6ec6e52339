"""The one exception of the gate that reaches a person."""

from __future__ import annotations


class GateError(Exception):
    """Something a person can act on; one line, never a traceback.

    ``message`` says what happened and to what, ``hint`` what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}; {self.hint.rstrip('.')}" if self.hint else self.message
