"""Amounts as people write them in settings: "64M", "50%", "infinity"."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([1-9][0-9]*)([KMGT]?)")
_PART = re.compile(r"([1-9][0-9]?|100)%")
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def size(text: str) -> int:
    """The bytes of a text such as 64M. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!a} is not bytes, or a text such as 64M")
    return int(match[1]) << _SHIFT[match[2]]


def limit(text: str, whole: int) -> int | None:
    """The number of a text such as 64M, or 50% of ``whole``; None: no limit. Raises ValueError."""
    if text == "infinity":
        return None
    if part := _PART.fullmatch(text):
        return max(whole * int(part[1]) // 100, 1)
    if _SIZE.fullmatch(text):
        return size(text)
    raise ValueError(f"{text!a} is not an amount such as 4G, 50% or infinity")


def checked(text: str) -> str:
    """``text`` if it is one that ``limit`` reads. Raises ValueError."""
    limit(text, 0)
    return text
