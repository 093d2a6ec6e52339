"""h11's two patterns that take the square of a line's length, written so that they do not.

An origin server's header of 64 KiB of blanks and one wrong byte kept h11 busy for ten seconds, and
with it the gate: it tries each way to share the blanks between two parts of the pattern. Here the
blanks, or a chunk's extension, are taken once and never given back: ``(?=(...))\\1``, since Python
3.10 has no atomic groups. What the patterns take is the same; but a bare CR in an extension, which
is none, is refused.
"""

from __future__ import annotations

import re

from h11 import _readers

HEADER = re.compile(
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]+):(?=(?P<blanks>[ \t]*))(?P=blanks)"
    rb"(?=(?P<field_value>(?:[^\x00\s](?:[^\x00\n\v\f\r]*[^\x00\s])?)?))(?P=field_value)[ \t]*"
)
CHUNK = re.compile(
    rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})"
    rb"(?:(?=(?P<chunk_ext>;[^\r\n]*))(?P=chunk_ext)|(?=(?P<blanks>[ \t]*))(?P=blanks))\r\n"
)


def patch() -> None:
    """Let h11 use them. Raises AttributeError if it is a version that has no such patterns."""
    for name, pattern in (("header_field_re", HEADER), ("chunk_header_re", CHUNK)):
        getattr(_readers, name)
        setattr(_readers, name, pattern)
