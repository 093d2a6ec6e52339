"""What others wrote, made fit for a terminal: labels, paths, host names, messages of a session."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see serai.runtime.cli.exec_core
if TYPE_CHECKING:
    from typing import TextIO


UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that take no ink, though Python calls them printable. The other ones are those that
choose a form of the character before them: in 256 of them any bytes can be hidden."""
_CHOOSING = (("\u180b", "\u180f"), ("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef"))


def clean(text: str) -> str:
    """The text in one line, with a question mark for each character that could control a terminal.

    That is all that is not printable: escapes, line breaks, direction marks, halves of pairs; and
    what nobody sees.
    """
    return "".join(each if _seen(each) else "?" for each in text)


def _seen(each: str) -> bool:
    if each.isascii() or not each.isprintable():
        return each.isprintable()
    return each not in UNSEEN and not any(first <= each <= last for first, last in _CHOOSING)


def say(text: str, file: TextIO | None = None) -> None:
    """Print one cleaned line, on standard output if nothing else is given."""
    print(clean(text), file=file or sys.stdout)
