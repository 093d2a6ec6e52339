"""Numbers as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people: '0 B', '18.0 KiB', '1.2 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - binary prefixes
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people: '0.02 s', '4.7 s', '12 min 37 s', '1 h 05 min'."""
    if seconds < 0.95:  # noqa: PLR2004 - one digit more for what is short
        return f"{seconds:.2f} s"
    if round(seconds, 1) < 60:  # noqa: PLR2004 - seconds
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - minutes
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
