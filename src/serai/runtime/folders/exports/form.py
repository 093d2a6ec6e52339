"""What an export is: a session as a tar archive. Pure: nothing here touches a file system.

    serai.json          first: what the session is. Its policy, limits, labels and variables
    home/…              its home, with holes, hard links, attributes and times
    jobs/ID/…           its jobs: what was asked, the output, how each ended
    digests.json        last: what each part must add up to

Owners are roles, not numbers: what belongs to the session's user, and what to others. A digest is
over what entries mean and not over tar's bytes, so that any tar may be told from what was lost.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from serai.common.errors import INVALID_PARAMS, SeraiError

FORMAT = 1
FIRST, LAST = "serai.json", "digests.json"
HOME, JOBS = "home", "jobs"
JOB_FILES = ("job.json", "begun", "status", "log")
"""What there is of a job at most."""
OURS, OTHERS = "session", "other"
MOST_TEXT = 4 << 20
"""Bytes of what is read as JSON."""
MOST_SEGMENTS = 200_000
"""Pieces of a file between its holes."""
XATTR = "SCHILY.xattr."
USER = "user."
_BLOCK = 512
_TIME = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9}))?")
_MOST_TIME = 10**12 - 1  # seconds: what _TIME reads. Only some file systems can have more
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # what os.fsdecode makes of such a byte
_ESCAPED = re.compile(r"%(25|3D|[89A-F][0-9A-F])")


class Digest:
    """What the entries of a part add up to."""

    def __init__(self) -> None:
        self._sum = sha256()
        self.entries = self.bytes = self.others = 0

    def add(self, entry: tarfile.TarInfo, content: str, size: int) -> None:
        """An entry, the digest of its content, and how many bytes that has."""
        facts = (
            *(entry.type.decode("latin-1"), entry.name, entry.mode, entry.linkname),
            *(entry.uname, time_of(entry), xattrs_of(entry), size, content),
        )
        self._sum.update(json.dumps(facts).encode() + b"\n")
        self.entries += 1
        self.bytes += size
        self.others += entry.uname == OTHERS

    def told(self) -> dict[str, Any]:
        """As the last entry of an export has it."""
        return {"sha256": self._sum.hexdigest(), "entries": self.entries, "bytes": self.bytes}


def entry(name: str, mode: int, time: int, *, ours: bool = True) -> tarfile.TarInfo:
    """An entry with the time of its last change in ns since the epoch."""
    made = tarfile.TarInfo(name)
    time = min(max(time, -_MOST_TIME * 10**9), _MOST_TIME * 10**9)
    made.mode, made.mtime = mode, min(max(time // 10**9, 0), 2**32)
    made.uname = made.gname = OURS if ours else OTHERS
    made.pax_headers = {"mtime": f"{time // 10**9}.{time % 10**9:09d}"}
    return made


def text(name: str, content: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An entry with JSON in it."""
    raw = json.dumps(content).encode()
    made = entry(name, 0o600, 0)
    made.size = len(raw)
    return made, raw


def time_of(member: tarfile.TarInfo) -> int:
    """The time of the last change, in ns. Raises SeraiError."""
    found = _TIME.fullmatch(member.pax_headers.get("mtime") or str(int(member.mtime)))
    if found is None or abs(int(found[1])) > _MOST_TIME:
        raise wrong(f"{ascii(member.name)[:200]} has no time")
    return int(found[1]) * 10**9 + int((found[2] or "0").ljust(9, "0"))


def xattrs_of(member: tarfile.TarInfo) -> list[tuple[str, str]]:
    """The extended attributes, sorted by name; bytes as surrogates."""
    found = member.pax_headers.items()
    return sorted(
        (_ESCAPED.sub(_meant, key[len(XATTR) :]), value)
        for key, value in found
        if key.startswith(XATTR)
    )


def set_xattrs(made: tarfile.TarInfo, attributes: Iterable[tuple[str, bytes]]) -> None:
    """Give an entry extended attributes."""
    more = {
        XATTR + _keyword(name): value.decode("utf-8", "surrogateescape")
        for name, value in attributes
    }
    made.pax_headers = {**made.pax_headers, **more}


def _keyword(name: str) -> str:
    """What the format can have as a name: it ends one at its first '=', and takes UTF-8 only.

    GNU tar writes '=' and '%' alike.
    """
    plain = name.replace("%", "%25").replace("=", "%3D")
    return _NO_UTF8.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", plain)


def _meant(escaped: re.Match[str]) -> str:
    return bytes.fromhex(escaped[1]).decode("utf-8", "surrogateescape")


def set_sparse(made: tarfile.TarInfo, size: int, segments: Sequence[tuple[int, int]]) -> bytes:
    """Make it a file of ``size`` with data (offset, bytes) only there; returns what comes first.

    That is "PAX Format, Version 1.0" of GNU tar's manual, which GNU tar and Python read.
    """
    words = [len(segments), *(number for pair in segments for number in pair)]
    table = "".join(f"{word}\n" for word in words).encode()
    table += bytes(-len(table) % _BLOCK)
    made.pax_headers = {
        **made.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": made.name,
        "GNU.sparse.realsize": str(size),
    }
    made.size = len(table) + sum(length for _, length in segments)
    return table


def segments_of(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Where a file has data: all of it, if it has no holes. Raises SeraiError."""
    if not member.issparse():
        return [(0, member.size)] if member.size else []
    pieces: Any = member.sparse or ()
    found = [(int(offset), int(size)) for offset, size in pieces if size]
    end = 0
    for offset, size in found:
        if offset < end or size < 0:
            raise wrong(f"{ascii(member.name)[:200]} has pieces that overlap")
        end = offset + size
    if end > member.size or member.size >= 1 << 63:
        raise wrong(f"{ascii(member.name)[:200]} has pieces behind its end")
    return found


def read_text(raw: bytes, what: str) -> dict[str, Any]:
    """JSON that must be an object. Raises SeraiError."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise wrong(f"its {what} is no JSON object")
    return found


def check_format(first: dict[str, Any]) -> None:
    """Raise SeraiError unless this Serai can read such an export."""
    if first.get("format") != FORMAT:
        raise SeraiError(
            f"the export has format {ascii(first.get('format'))[:20]}, and this VM's Serai"
            f" reads {FORMAT}",
            "upgrade the older one",
            INVALID_PARAMS,
        )


def wrong(why: str) -> SeraiError:
    """The error for what is no export."""
    return SeraiError(f"this is no export of a session: {why}", "", INVALID_PARAMS)
