"""What others wrote, made fit for a terminal: labels, paths, host names, messages of a session."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see serai.runtime.cli.exec_core
if TYPE_CHECKING:
    from typing import TextIO


def clean(text: str) -> str:
    """The text in one line, with a question mark for each character that could control a terminal.

    That is all that is not printable: escapes, line breaks, direction marks, halves of pairs.
    """
    return "".join(each if each.isprintable() else "?" for each in text)


def say(text: str, file: TextIO | None = None) -> None:
    """Print one cleaned line, on standard output if nothing else is given."""
    print(clean(text), file=file or sys.stdout)
