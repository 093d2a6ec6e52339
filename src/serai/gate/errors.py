"""The gate's errors: those for an administrator, and those for a session."""

from __future__ import annotations

_MOST_WORDS = 200


class GateError(Exception):
    """An error that a person can act on; one line, never a traceback.

    ``message`` says what happened and to what, ``hint`` what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}; {self.hint.rstrip('.')}" if self.hint else self.message


class Denied(Exception):  # noqa: N818  # a decision, not a fault
    """The policy denies it: by ``rule``, and ``reason`` says why in words.

    ``missing`` is the rule to ask for, if that is not the target itself.
    """

    def __init__(self, rule: str, reason: str, missing: str = "") -> None:
        super().__init__(f"{reason} ({rule})")
        self.rule = rule
        self.reason = reason
        self.missing = missing


class Unreachable(Exception):  # noqa: N818  # the network's fault, not ours
    """An allowed connection cannot be made. ``kind`` is one of the constants below."""

    REFUSED, NO_ROUTE, NO_ADDRESS, TIMEOUT, FAILED = (
        "refused",
        "no route",
        "no address",
        "timeout",
        "failed",
    )

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def words(failure: BaseException) -> str:
    """A failure in few words; the text is cut, because it may come from a server."""
    text = failure.strerror if isinstance(failure, OSError) else None
    return (text or str(failure))[:_MOST_WORDS]
