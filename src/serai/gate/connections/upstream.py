"""The way out: directly, or through a parent proxy, whose credentials no session sees."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from serai.gate.connections import dial
from serai.gate.connections.share import Share
from serai.gate.errors import Unreachable
from serai.gate.messages import socks5
from serai.gate.policy.hosts import Address, Target
from serai.gate.settings import Upstream

_MOST_HEAD = 16 << 10
MOST_LABELS = 4 << 10
"""Bytes of a session's labels that a parent proxy is told: many take 8 KiB of headers in all."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
Headers = tuple[tuple[bytes, bytes], ...]
_CODES = {
    socks5.REFUSED: Unreachable.REFUSED,
    socks5.NETWORK_UNREACHABLE: Unreachable.NO_ROUTE,
    socks5.HOST_UNREACHABLE: Unreachable.NO_ROUTE,
    socks5.TTL_EXPIRED: Unreachable.TIMEOUT,
}


@dataclass(frozen=True)
class Line:
    """A connected socket to a target.

    ``early`` are bytes that the other side has already sent. With ``absolute`` the socket leads to
    a parent proxy that wants HTTP requests with the whole URI, and with ``headers`` in addition.
    """

    sock: socket.socket
    address: Address | None = None
    early: bytes = b""
    absolute: bool = False
    headers: Headers = ()


def identity(session: str, labels: Mapping[str, str]) -> Headers:
    """What a parent proxy is told of a session, if the settings say so.

    All but letters, digits and -._~ is written with %. Labels come in their order by name; those
    that do not fit are left out.
    """
    told, room = [], MOST_LABELS
    for key, value in sorted(labels.items()):
        pair = "=".join(quote(each, safe="", errors="surrogatepass") for each in (key, value))
        room -= len(pair) + len(", ")
        if room < 0:
            break
        told.append(pair)
    named = ((b"Serai-Session", quote(session, safe="").encode()),)
    return (*named, (b"Serai-Labels", ", ".join(told).encode())) if told else named


async def line(
    upstream: Upstream,
    target: Target,
    addresses: Sequence[Address],
    share: Share,
    *,
    plain: bool,
    who: Headers = (),
) -> Line:
    """A line to ``target``; ``addresses`` are those it may be reached at, if we resolve.

    ``plain`` says that one HTTP request will follow, not a tunnel. ``who`` is what ``identity``
    says of the session. Raises Unreachable.
    """
    if upstream.kind == "direct":
        sock, reached = await dial.dial(addresses, target.port, share)
        return Line(sock, reached)
    address = addresses[0] if addresses else None
    asked = target if address is None else Target(address, target.port)
    sock = await _parent(upstream, share)
    try:
        if upstream.kind == "socks5":
            await _socks5(sock, upstream, asked)
            return Line(sock, address)
        headers = (*_authorization(upstream), *(who if upstream.identity else ()))
        if plain and address is None:
            return Line(sock, absolute=True, headers=headers)
        return Line(sock, address, early=await _connect(sock, asked, headers))
    except OSError as error:
        sock.close()
        raise dial.unreachable(error, "the parent proxy") from None
    except BaseException:
        sock.close()
        raise


async def _parent(upstream: Upstream, share: Share) -> socket.socket:
    endpoint = upstream.endpoint
    try:
        if isinstance(endpoint, Path):
            return await dial.connect(socket.AF_UNIX, str(endpoint))
        assert endpoint is not None  # noqa: S101  # settings saw to it
        ask = asyncio.get_running_loop().getaddrinfo
        places = await ask(str(endpoint.host), endpoint.port, type=socket.SOCK_STREAM)
        addresses = [dial.canonical(str(place[0]).partition("%")[0]) for *_, place in places]
        sock, _ = await dial.dial(dial.interleaved(addresses), endpoint.port, share)
        return sock
    except (OSError, Unreachable) as error:
        # Not as if the target itself had refused, and without the parent's address.
        kind = error.kind if isinstance(error, Unreachable) else ""
        kind = kind if kind == Unreachable.TIMEOUT else Unreachable.FAILED
        raise Unreachable(kind, "the parent proxy cannot be reached") from error


def _authorization(upstream: Upstream) -> Headers:
    if not upstream.username:
        return ()
    pair = f"{upstream.username}:{upstream.password}".encode()
    return ((b"Proxy-Authorization", b"Basic " + base64.b64encode(pair)),)


async def _connect(
    sock: socket.socket, target: Target, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """Send CONNECT (RFC 9110, 9.3.6); returns the bytes that follow the answer's head."""
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {target} HTTP/1.1".encode(), f"Host: {target}".encode()]
    lines += [name + b": " + value for name, value in headers]
    await loop.sock_sendall(sock, b"\r\n".join(lines) + b"\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await loop.sock_recv(sock, 4096)
        if not data or len(answer) > _MOST_HEAD:
            raise Unreachable(Unreachable.FAILED, "the parent proxy does not speak HTTP")
        answer += data
    head, _, early = answer.partition(b"\r\n\r\n")
    status = _STATUS.match(head + b"\r")
    if status is None or not status[1].startswith(b"2"):
        said = head.split(b"\r\n")[0][:100].decode("ascii", "replace")
        raise Unreachable(Unreachable.FAILED, f"the parent proxy answered {said!r}")
    return early


async def _socks5(sock: socket.socket, upstream: Upstream, target: Target) -> None:
    """A SOCKS5 client (RFC 1928) with a name and password where there are some (RFC 1929)."""
    loop = asyncio.get_running_loop()
    method = 2 if upstream.username else 0
    await loop.sock_sendall(sock, bytes([5, 1, method]))
    if await _exactly(sock, 2) != bytes([5, method]):
        raise Unreachable(Unreachable.FAILED, "the parent proxy takes no such credentials")
    if method:
        name, password = upstream.username.encode(), upstream.password.encode()
        secret = bytes([len(name)]) + name + bytes([len(password)]) + password
        await loop.sock_sendall(sock, b"\x01" + secret)
        if await _exactly(sock, 2) != b"\x01\x00":
            raise Unreachable(Unreachable.FAILED, "the parent proxy refuses our credentials")
    host = target.host
    if isinstance(host, str):
        place = b"\x03" + bytes([len(host)]) + host.encode("ascii")
    else:
        place = (b"\x01" if host.version == 4 else b"\x04") + host.packed  # noqa: PLR2004
    await loop.sock_sendall(sock, b"\x05\x01\x00" + place + target.port.to_bytes(2, "big"))
    _, code, _, kind = await _exactly(sock, 4)
    if code != socks5.SUCCEEDED:
        meaning = _CODES.get(code, Unreachable.FAILED)
        raise Unreachable(meaning, f"the parent proxy answered {code} (RFC 1928)")
    if kind not in (1, 3, 4):
        raise Unreachable(Unreachable.FAILED, "the parent proxy does not speak SOCKS5")
    length = {1: 4, 4: 16}.get(kind) or (await _exactly(sock, 1))[0]
    await _exactly(sock, length + 2)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    """Read exactly so many bytes and none of those that follow."""
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not more:
            raise Unreachable(Unreachable.FAILED, "the parent proxy hung up")
        data += more
    return data
