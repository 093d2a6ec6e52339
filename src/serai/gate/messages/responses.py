"""Responses for the client: the gate writes a new head and frames the body itself. Pure.

The input are h11's events, so names and values contain no line ends, and there is at most one
length. The incoming framing does not decide the outgoing one: the gate copies none of the headers
that frame a message, and writes at most one.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from http import HTTPStatus

import h11

from serai.gate.messages import heads

Event = h11.InformationalResponse | h11.Response

END = b"0\r\n\r\n"
"""Ends a chunked body, without trailers: they could pass for headers (RFC 9110, 6.5.1)."""

LONGEST_STATUS = 8 << 10
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info"),
        *(b"proxy-connection", b"te", b"trailer", b"upgrade"),
    )
)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A line that does not start as a header does, or the header that `readable` drops.
_ODD = re.compile(
    rb"\n(?![!#$%&'*+.^_`|~0-9A-Za-z-]+:|[ \t]|\r?\n|\Z)|\ntransfer-encoding[ \t]*:[ \t]*identity",
    re.IGNORECASE,
)
_UPGRADE = frozenset((b"connection", b"upgrade"))


class Body(Enum):
    """How the end of a body is found (RFC 9112, 6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


def readable(head: bytes) -> bytes:
    """A head as it came, without the lines that are no headers, as curl and browsers read it.

    What does not say where the body ends may go: ours is framed anew. A line that looks as if it
    did, such as "Content-Length : 5", stays, and the whole answer is refused for it. Raises
    TooLarge for a status line that would take long to read.
    """
    if head.find(b"\n") > LONGEST_STATUS:
        raise heads.TooLarge(f"status line is larger than {LONGEST_STATUS} bytes")
    if not _ODD.search(head):
        return head
    first, *lines = head.split(b"\n")
    kept, line = [first], b""
    for came in lines:
        folded = came[:1] in (b" ", b"\t")  # it goes on with the line before
        line = (line and came) if folded else _header(came)
        if line or not came:
            kept.append(line)
    return b"\n".join(kept)


def _header(line: bytes) -> bytes:
    """The line as it goes on; nothing for one that is no header."""
    name, colon, value = line.partition(b":")
    bare = name.strip()
    if bare.lower() in _FRAMING:
        # There is no coding "identity" any more: RFC 9112, 7.
        return b"" if value.strip().lower() == b"identity" else line
    if not line.strip():
        return line
    # RFC 9112, 5.1: blanks before the colon are to be removed.
    name = name.rstrip()
    return name + colon + value if colon and _NAME.fullmatch(name) else b""


def body(method: str, version: str, event: Event) -> Body:
    """The framing of the answer to a request of that method and HTTP version."""
    names = {name for name, _ in event.headers}
    bodyless = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    if method == "HEAD" or event.status_code < HTTPStatus.OK or event.status_code in bodyless:
        return Body.NONE
    if b"content-length" in names and b"transfer-encoding" not in names:
        return Body.LENGTH
    return Body.CLOSE if version == "1.0" else Body.CHUNKED


def keeps(event: h11.Response) -> bool:
    """Whether the connection can carry another request after this response (RFC 9112, 9.3)."""
    options = heads.elements(value for name, value in event.headers if name == b"connection")
    framed = any(name in _FRAMING for name, _ in event.headers)
    bodyless = event.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    return event.http_version == b"1.1" and b"close" not in options and (framed or bodyless)


def head(event: Event, framing: Body, *, close: bool, upgrade: bool = False) -> bytes:
    """The head, without the headers that hold for one hop only (RFC 9110, 7.6.1).

    ``close`` says that the connection ends with this response, ``upgrade`` that it is the one
    which switches protocols. Raises heads.TooLarge.
    """
    options = [value for name, value in event.headers if name == b"connection"]
    named = heads.elements(options)
    dropped = ((_HOP_BY_HOP | named) - (_UPGRADE if upgrade else set())) | _FRAMING
    if framing is Body.LENGTH or (framing is Body.NONE and _may_have_length(event)):
        dropped = dropped - {b"content-length"}
    lines = [b"HTTP/1.1 %d %s" % (event.status_code, event.reason)]
    for name, value in event.headers.raw_items():
        if name.lower() not in dropped:
            lines.append(name + b": " + value)
    if framing is Body.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def framed(data: bytes, framing: Body) -> bytes:
    """A piece of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if framing is Body.CHUNKED and data else data


def _may_have_length(event: Event) -> bool:
    """Whether a response without a body may have a length (RFC 9110, 8.6)."""
    none = event.status_code < HTTPStatus.OK or event.status_code == HTTPStatus.NO_CONTENT
    return not none and all(name != b"transfer-encoding" for name, _ in event.headers)
