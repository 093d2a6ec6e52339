"""Entries of the audit log as clients get them, and the lines that they are in the log. Pure.

The keys of an entry keep their order on the way, so its line can be written again byte for byte,
and has the hash that the next line's ``prev`` names.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

Entry = dict[str, Any]
_encode = json.JSONEncoder(separators=(",", ":")).encode
UNREADABLE = "unreadable"
"""The event of a line that is no entry: nobody knows what stands there."""


def line(entry: Entry) -> str:
    """The entry's line in the log, without its newline; ASCII."""
    return _encode(entry)


def digest(entry: Entry) -> str:
    """The hash of the entry's line; '' if that is not known."""
    return "" if entry["event"] == UNREADABLE else sha256(line(entry).encode("ascii")).hexdigest()
