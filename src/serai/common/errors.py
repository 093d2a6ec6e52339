"""The one exception that reaches a person or a client, and the codes that a client decides by."""

from __future__ import annotations

# JSON-RPC 2.0's own codes (https://www.jsonrpc.org/specification#error_object).
PARSE = -32700
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603

# Serai's, outside the range that JSON-RPC keeps for itself.
FAILED = 1
NOT_FOUND = 2
EXISTS = 3
WRONG_STATE = 4
CONFLICT = 5
NOT_PERMITTED = 6
TIMEOUT = 7
TOO_LARGE = 8
GONE = 9
NO_COMMAND = 10
NOT_EXECUTABLE = 11
NO_ROOM = 20
BUSY = 21
OTHER_VERSION = 22
REFUSED = 23


class SeraiError(Exception):
    """Something a person can act on; one line, never a traceback.

    ``message`` says what happened and to what, ``hint`` what to do about it, ``code`` is the
    JSON-RPC error code that a client decides by.
    """

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}; {self.hint.rstrip('.')}" if self.hint else self.message
