"""From a target that the policy allows by name to a connected socket that it allows by address.

A name is resolved once. Each address is judged, and one of those that passed is dialled itself, so
no second answer of the DNS can change it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

from serai.gate import hosts
from serai.gate.errors import Unreachable
from serai.gate.hosts import Address
from serai.gate.relay import within

MOST_ADDRESSES = 8
_EACH = 5.0  # seconds for one of several addresses
_PAUSE = 0.01  # seconds

Resolve = Callable[[str], Awaitable[list[Address]]]
_KINDS = {
    errno.ECONNREFUSED: Unreachable.REFUSED,
    errno.ENETUNREACH: Unreachable.NO_ROUTE,
    errno.EHOSTUNREACH: Unreachable.NO_ROUTE,
    errno.ETIMEDOUT: Unreachable.TIMEOUT,
}


def resolver(executor: Executor) -> Resolve:
    """The machine's own resolver (getaddrinfo(3)), in threads."""

    async def resolve(name: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        ask = functools.partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
        try:
            answers = await loop.run_in_executor(executor, ask)
        except (OSError, UnicodeError) as error:  # OSError: EAI_SYSTEM, as without descriptors
            raise Unreachable(Unreachable.NO_ADDRESS, f"{name}: {error}") from None
        found: list[Address] = []
        for *_, place in answers:
            # A scope ("%eth0") only exists for link-local addresses, which are judged without it.
            address = canonical(str(place[0]).partition("%")[0])
            if address not in found:
                found.append(address)
        return found[:MOST_ADDRESSES]

    return resolve


def canonical(text: str) -> Address:
    """The address in ``text``; one of IPv4 inside IPv6 (::ffff:a.b.c.d) as the IPv4 that it is."""
    return hosts.unmapped(ipaddress.ip_address(text))


def is_own(address: Address) -> bool:
    """Whether this machine itself has the address: what is sent there would leave from there.

    Connecting a datagram socket only looks up the route (udp(7)), it sends nothing. Raises
    Unreachable if that cannot be found out.
    """
    try:
        probe = socket.socket(_family(address), socket.SOCK_DGRAM)
    except OSError as error:
        raise unreachable(error, str(address)) from None
    with probe:
        try:
            probe.connect((str(address), 9))
            return canonical(probe.getsockname()[0].partition("%")[0]) == address
        except OSError:
            return False


async def dial(addresses: Sequence[Address], port: int) -> tuple[socket.socket, Address]:
    """Connect to the first address that answers. Raises Unreachable with the last failure."""
    failure = Unreachable(Unreachable.NO_ADDRESS, "there is no address")
    for address in addresses:
        alone = address == addresses[-1]
        try:
            attempt = connect(_family(address), (str(address), port))
            return await (attempt if alone else within(_EACH, attempt)), address
        except asyncio.TimeoutError:
            failure = Unreachable(Unreachable.TIMEOUT, f"{address}: no answer")
        except OSError as error:
            failure = unreachable(error, str(address))
    raise failure


async def connect(family: int, place: tuple[str, int] | str) -> socket.socket:
    """A connected, non-blocking stream socket. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            await _connect_unix(sock, place)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await _connect_tcp(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_tcp(sock: socket.socket, place: tuple[str, int] | str) -> None:
    """What is on this machine, as a parent proxy may be, has answered by the second look: that
    saves two turns of the loop.
    """
    for _ in range(2):
        with contextlib.suppress(BlockingIOError):
            sock.connect(place)
            return
    await asyncio.get_running_loop().sock_connect(sock, place)


async def _connect_unix(sock: socket.socket, place: tuple[str, int] | str) -> None:
    """Where a backlog is full this says "try again", which asyncio takes for "under way"."""
    while True:
        try:
            sock.connect(place)
            return
        except BlockingIOError:
            await asyncio.sleep(_PAUSE)


def unreachable(error: OSError, what: str) -> Unreachable:
    """A failure to connect, in our words."""
    kind = _KINDS.get(error.errno or 0, Unreachable.FAILED)
    # asyncio puts words of its own into strerror; gaierror's numbers are not errno's.
    known = error.errno and not isinstance(error, socket.gaierror)
    text = os.strerror(error.errno or 0) if known else str(error)
    return Unreachable(kind, f"{what}: {text}")


def _family(address: Address) -> int:
    v4 = isinstance(address, ipaddress.IPv4Address)
    return socket.AF_INET if v4 else socket.AF_INET6
