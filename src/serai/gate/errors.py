"""The gate's errors for a session; an administrator gets a SeraiError."""

from __future__ import annotations

import re

_MOST_WORDS = 200
# h11 quotes what it does not accept, which may hold a secret: as it goes in, or as a server sends
# it back. A session and the audit log get these words.
_QUOTED = re.compile(r":? (?:bytearray\()?b['\"].*", re.DOTALL)


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
    """A connection cannot be made. ``kind`` is one of the constants below.

    It is allowed, except for NOT_RECORDED: nothing is, while no decision can be written down.
    """

    REFUSED, NO_ROUTE, NO_ADDRESS, TIMEOUT, FAILED, NOT_RECORDED = (
        "refused",
        "no route",
        "no address",
        "timeout",
        "failed",
        "not recorded",
    )

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def words(failure: BaseException) -> str:
    """A failure in few words; the text is cut, because it may come from a server, and without the
    bytes that it quotes."""
    text = failure.strerror if isinstance(failure, OSError) else None
    return _QUOTED.sub("", text or str(failure))[:_MOST_WORDS]
