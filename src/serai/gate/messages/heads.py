"""The head of an HTTP/1 proxy request: one strict reading of it, or none. Pure.

The gate refuses a head that two programs may read differently, and never repairs it: request
smuggling depends on such differences. So this module is stricter than RFC 9112 where the RFC lets a
recipient be lenient (bare LF, obs-fold, equal lengths twice). The gate then writes a new head from
the meaning, and does not copy the old one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from serai.gate.policy import hosts
from serai.gate.policy.hosts import Target

HEAD_END = b"\r\n\r\n"
HTTP_PORT = 80
HTTPS_PORT = 443
# Reading a head takes the whole gate's time: 64 KiB of empty headers took 0.2 s, and 64 KiB of
# commas 5 ms.
MOST_HEADERS = 256
MOST_OPTIONS = 64

Headers = tuple[tuple[bytes, bytes], ...]

_END_OR_BARE_LF = re.compile(rb"\r\n\r\n|(?<!\r)\n")
_RESPONSE_END = re.compile(rb"\n\r?\n")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VISIBLE = re.compile(rb"[\x21-\x7e]+")
# The RFC also allows zeros in front, which some programs read as octal; no client sends any.
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_ENCODED = {byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}
# A request line whose path alone has bytes that are not ASCII: its three parts, without the blanks.
_HIGH_PATH = re.compile(
    rb"([!-~]+ (?:http://[!-.0->@-~]*)?)([/?][!-~\x80-\xff]*)( HTTP/1\.[01])", re.IGNORECASE
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_PROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")

_FRAMING = (b"content-length", b"transfer-encoding")
_SINGLE = (b"host", *_FRAMING)
# RFC 9110, 7.6.1; what Connection names comes on top.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"))
# What the gate tells a parent proxy of a session (upstream.identity), which then believes it: no
# client may say so, and neither with _ for -, which some programs take for the same.
_OURS = frozenset((b"serai-session", b"serai-labels"))
# Offers that a proxy may let fall (RFC 9110, 7.8). Java's client makes the first with every plain
# request; taken up, it would hide all further requests from us.
_NOT_CARRIED = ("h2c", "tls")


# By these some servers do another request than the one that the rules were asked about.
_OTHER_MEANINGS = frozenset(
    (
        *(b"x-http-method", b"x-http-method-override", b"x-method-override"),
        *(b"x-original-url", b"x-rewrite-url"),
    )
)


class BadRequest(ValueError):  # noqa: N818  # as hosts and socks5 name what is bad
    """The head is not one that the gate passes on; the text says why, in printable ASCII."""


class TooLarge(BadRequest):
    """The head is too large to be read."""


@dataclass(frozen=True)
class Head:
    """A request head that has one meaning.

    ``path`` is the request's target in origin-form, as it goes to the origin server; it is empty
    for CONNECT. The values of ``headers`` have no white space around them, and Content-Length and
    Transfer-Encoding are in the form of h11. ``upgrade`` is the protocol that the client wants to
    change to. ``body`` is whether bytes of one follow, ``keep_alive`` whether another request may
    follow on the connection. ``tls`` is whether it came in TLS that the gate ends.
    """

    method: str
    target: Target
    path: str
    version: str
    headers: Headers
    connect: bool
    upgrade: str | None
    body: bool
    keep_alive: bool
    tls: bool = False


def head_length(data: bytes | bytearray, searched: int = 0) -> int | None:
    """How many bytes of ``data`` are the head with its blank line; None if it is not complete.

    ``searched`` is how many bytes an earlier call has seen. Raises BadRequest as soon as a line
    ends in a bare LF, because such a head would never end.
    """
    found = _END_OR_BARE_LF.search(data, max(0, searched - len(HEAD_END) + 1))
    if found is None:
        return None
    if found[0] == b"\n":
        raise BadRequest("a line of the head ends in LF without CR")
    return found.end()


def encoded(head: bytes) -> bytes:
    """``head``, the bytes of whose path that are not ASCII are written with %.

    curl sends them as they were typed. They have this one meaning (RFC 3986, 2.5); ``check``
    refuses them everywhere else.
    """
    line, end, rest = head.partition(b"\r\n")
    if line.isascii() or not (found := _HIGH_PATH.fullmatch(line)):
        return head
    path = found[2].decode("latin-1").translate(_ENCODED).encode("ascii")
    return found[1] + path + found[3] + end + rest


def check_size(data: bytes | bytearray, length: int | None, most: int) -> None:
    """Bound what has come of a head, a request's or a response's, before anything parses it.

    ``length`` is the head's own, None while its end has not come. Raises TooLarge.
    """
    if (len(data) if length is None else length) > most:
        raise TooLarge(f"head is larger than {most} bytes")
    if data.count(b"\n", 0, length) > MOST_HEADERS:
        raise TooLarge(f"head has more than {MOST_HEADERS} headers")


def response_length(data: bytes | bytearray, searched: int = 0) -> int | None:
    """The same for a response, whose lines may end in LF alone; as h11 finds it."""
    if data[:1] == b"\n" or data[:2] == b"\r\n":
        return len(data)  # not HTTP, as h11 will say
    found = _RESPONSE_END.search(data, max(0, searched - 2))
    return None if found is None else found.end()


def elements(values: Iterable[bytes]) -> set[bytes]:
    """The elements of a list that ``values`` make up, in lower case. Raises TooLarge."""
    whole = b",".join(values)
    if not whole:
        return set()
    if whole.count(b",") >= MOST_OPTIONS:
        raise TooLarge(f"head has a list of more than {MOST_OPTIONS} elements")
    return {element.strip(b" \t") for element in whole.lower().split(b",")} - {b""}


def check(head: bytes, origin: Target | None = None) -> Head:
    """The meaning of a head, given up to and including its blank line. Raises BadRequest.

    It came in TLS that the gate ends, to a server at ``origin``: or else to a proxy.
    """
    lines = _lines(head)
    method, text, version = _request_line(lines[0])
    headers = tuple(_header(line) for line in lines[1:])
    single = _single(headers)
    connect = method == "CONNECT"
    if origin is not None:
        target, path = origin, _origin_form(text, connect=connect)
    else:
        target, path = _connect_target(text) if connect else _absolute_target(text)
    default = target.port if connect else HTTP_PORT if origin is None else HTTPS_PORT
    _check_host(single.get(b"host"), target, version, default, connect=connect)
    _check_framing(single, version, connect=connect)
    options = _options(headers, b"connection")
    for name in _FRAMING:
        if name in options:
            _refuse(f"Connection names {_shown(name)}, which no proxy may take away")
    closing = options | _options(headers, b"proxy-connection")
    return Head(
        method=method,
        target=target,
        path=path,
        version=version,
        headers=headers,
        connect=connect,
        upgrade=None if connect or version == "1.0" else _upgrade(headers, options),
        body=any(name in single and single[name] != b"0" for name in _FRAMING),
        # A proxy does not keep a connection of HTTP/1.0 (RFC 9112, C.2.2).
        keep_alive=version == "1.1" and b"close" not in closing,
        tls=origin is not None,
    )


def literal(head: Head) -> Head:
    """``head`` without the headers that make a server take it for another method or path."""
    kept = (e for e in head.headers if e[0].lower().replace(b"_", b"-") not in _OTHER_MEANINGS)
    return dataclasses.replace(head, headers=tuple(kept))


def forwarded(head: Head) -> list[tuple[bytes, bytes]]:
    """The headers that go on to the origin server: those end to end, with Host from the target.

    Transfer-Encoding stays, because it frames the body. A request to upgrade is written again.
    """
    dropped = _HOP_BY_HOP | _options(head.headers, b"connection") | {b"host"}
    kept = [(b"Host", host_header(head.target, HTTPS_PORT if head.tls else HTTP_PORT))]
    for name, value in head.headers:
        lower = name.lower()
        if lower.replace(b"_", b"-") in _OURS:
            continue
        if lower not in dropped and not lower.startswith(b"proxy-"):
            kept.append((name, value))
    if head.upgrade is not None:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", head.upgrade.encode("ascii"))]
    return kept


def host_header(target: Target, default_port: int) -> bytes:
    """The value of Host for a request to ``target``; the scheme's own port is left out."""
    text = str(target)
    return text.removesuffix(f":{default_port}").encode("ascii")


def _lines(head: bytes) -> list[bytes]:
    if _BARE.search(head):
        _refuse("the head has a CR or LF that is not part of a line's end")
    if not head.endswith(HEAD_END) or head.find(HEAD_END) != len(head) - len(HEAD_END):
        _refuse("the head does not end in its one blank line")
    if found := _CONTROL.search(head):
        _refuse(f"the head has a control character, {_shown(found[0])}")
    return head[: -len(HEAD_END)].split(b"\r\n")


def _request_line(line: bytes) -> tuple[str, str, str]:
    parts = line.split(b" ")
    if len(parts) != 3:  # noqa: PLR2004  # method, target, version
        _refuse(f"{_shown(line)} is not a request line: METHOD TARGET HTTP/1.1")
    method, target, version = parts
    if not _TOKEN.fullmatch(method):
        _refuse(f"{_shown(method)} is not a method")
    if method.upper() == b"CONNECT" != method:
        _refuse(f"{_shown(method)} is not a method; methods are written in capitals")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        _refuse(f"{_shown(version)} is not a version that is spoken here; use HTTP/1.1")
    if not _VISIBLE.fullmatch(target):
        _refuse(f"{_shown(target)} has something else than printable ASCII; encode it with %")
    return method.decode("ascii"), target.decode("ascii"), version[5:].decode("ascii")


def _header(line: bytes) -> tuple[bytes, bytes]:
    if line[:1] in (b" ", b"\t"):
        _refuse(f"the header {_shown(line)} is folded over lines")
    name, colon, value = line.partition(b":")
    if not colon:
        _refuse(f"the header {_shown(line)} has no colon")
    if not _TOKEN.fullmatch(name):
        _refuse(f"{_shown(name)} is not a header's name")
    # Servers that hand headers to programs as variables take _ for - there.
    if b"_" in name and name.lower().replace(b"_", b"-") in _SINGLE:
        _refuse(f"the header {_shown(name)} looks like another one")
    value = value.strip(b" \t")
    return name, value.lower() if name.lower() == b"transfer-encoding" else value


def _single(headers: Headers) -> dict[bytes, bytes]:
    """The headers that say where the message ends; each may be there once."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _SINGLE:
            if lower in found:
                _refuse(f"there is more than one {_shown(name)}")
            found[lower] = value
    return found


def _connect_target(text: str) -> tuple[Target, str]:
    return _target(text, None, "CONNECT takes host:port"), ""


def _absolute_target(text: str) -> tuple[Target, str]:
    if text.startswith("/"):
        _refuse("this is a proxy: ask it for http://host/path, not for a path alone")
    if text == "*":
        _refuse("a proxy is asked for http://host/, not for *")
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else ""
    if scheme is None or not rest.startswith("://"):
        _refuse(f"{_shown(text)} is not an address; a proxy is asked for http://host/path")
    if scheme[0].lower() == "https":
        _refuse("https is not asked for by address; use CONNECT host:443 (axios does from 1.16 on)")
    if scheme[0].lower() != "http":
        _refuse(f"the scheme {_shown(scheme[0])} is not carried, only http; CONNECT for the rest")
    if "#" in text:
        _refuse("the address has a fragment (#), which is the client's own")
    split = re.split("(?=[/?])", rest[3:], maxsplit=1)
    path = split[1] if len(split) > 1 else "/"
    return _target(split[0], HTTP_PORT, "http"), path if path.startswith("/") else f"/{path}"


def _target(authority: str, default_port: int | None, what: str) -> Target:
    # hosts says so too, but not that this is about a password.
    if "@" in authority:
        _refuse("the address has a user name or password; send them in a header")
    try:
        return hosts.target(authority, default_port)
    except hosts.BadHost as error:
        raise BadRequest(f"{what}: {_shown(authority)} is no host and port: {error}") from error


def _origin_form(text: str, *, connect: bool) -> str:
    """The path of a request to the origin server itself (RFC 9112, 3.2.1)."""
    if connect or not text.startswith("/"):
        _refuse(f"{_shown(text)} is not a path; inside TLS a server is asked for /path")
    if "#" in text:
        _refuse("the path has a fragment (#), which is the client's own")
    return text


def _check_host(
    value: bytes | None, target: Target, version: str, default_port: int, *, connect: bool
) -> None:
    if value is None:
        if version == "1.1":
            _refuse("there is no Host")
        return
    if value in (str(target).encode("ascii"), host_header(target, default_port)):
        return  # as nearly always: it need not be read
    if not _VISIBLE.fullmatch(value):
        _refuse(f"Host is {_shown(value)}, which is no host")
    # No default port is defined for a CONNECT's Host, and many clients leave it out.
    named = _target(value.decode("ascii"), default_port, "Host")
    # Node's http.request and undici name the proxy there. It decides nothing and goes nowhere.
    if named != target and not connect:
        _refuse(f"the request is for {target} but its Host says {named}")


def _check_framing(single: dict[bytes, bytes], version: str, *, connect: bool) -> None:
    length, coding = single.get(b"content-length"), single.get(b"transfer-encoding")
    if length is not None and not _LENGTH.fullmatch(length):
        _refuse(f"Content-Length {_shown(length)} is not a plain number of bytes")
    if coding is not None:
        if coding != b"chunked":
            _refuse(f"Transfer-Encoding {_shown(coding)} is not chunked alone")
        if length is not None:
            _refuse("there are both Content-Length and Transfer-Encoding")
        if version == "1.0":
            _refuse("HTTP/1.0 has no Transfer-Encoding")
    if connect and (coding is not None or length not in (None, b"0")):
        _refuse("CONNECT has no body")


def _options(headers: Headers, header: bytes) -> set[bytes]:
    """The elements of a list, in lower case."""
    return elements(value for name, value in headers if name.lower() == header)


def _upgrade(headers: Headers, options: set[bytes]) -> str | None:
    """The one protocol that is offered; None for no offer, several, or one that is not carried."""
    offers = [value for name, value in headers if name.lower() == b"upgrade"]
    if b"upgrade" not in options or len(offers) != 1 or not _PROTOCOL.fullmatch(offers[0]):
        return None
    text = offers[0].decode("ascii")
    return None if text.lower().partition("/")[0] in _NOT_CARRIED else text


def _shown(part: bytes | str) -> str:
    """A text that a client sent, made short and printable."""
    text = part.decode("latin-1") if isinstance(part, bytes) else part
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")  # noqa: PLR2004


def _refuse(message: str) -> NoReturn:
    raise BadRequest(message)
