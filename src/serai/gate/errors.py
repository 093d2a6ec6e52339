"""What can go wrong, for a person and for a session."""

from __future__ import annotations

_MOST_WORDS = 200


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


class Denied(Exception):  # noqa: N818  # a decision, not a fault
    """The policy forbids it; ``rule`` is the one that does, ``reason`` says it in words.

    ``missing`` is the rule to ask for where that is not the target itself.
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
    """What went wrong, in few words: a server may have had a hand in the text."""
    text = failure.strerror if isinstance(failure, OSError) else None
    return (text or str(failure))[:_MOST_WORDS]
