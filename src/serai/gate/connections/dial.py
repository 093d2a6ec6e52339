"""Resolves and connects: from an allowed name to a socket at an allowed address.

The gate resolves a name once and judges each address. It then dials one of the addresses that
passed, and does not resolve the name again, so a second DNS answer changes nothing.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor

from serai.common.sockets import connects_at_once
from serai.gate.connections.share import Share, metered
from serai.gate.errors import Unreachable
from serai.gate.policy import hosts
from serai.gate.policy.hosts import Address

MOST_ADDRESSES = 8
NEXT = 0.25
"""Seconds until the next address is tried beside those before (RFC 8305, section 5)."""
_PAUSE = 0.01  # seconds

Resolve = Callable[[str], Awaitable[list[Address]]]
_KINDS = {
    errno.ECONNREFUSED: Unreachable.REFUSED,
    errno.ENETUNREACH: Unreachable.NO_ROUTE,
    errno.EHOSTUNREACH: Unreachable.NO_ROUTE,
    errno.ETIMEDOUT: Unreachable.TIMEOUT,
}


def resolver(executor: Executor) -> Resolve:
    """The VM's own resolver (getaddrinfo(3)), in threads."""

    async def resolve(name: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        ask = functools.partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
        try:
            answers = await loop.run_in_executor(executor, ask)
        except (OSError, UnicodeError) as error:  # OSError: EAI_SYSTEM, as without descriptors
            text = getattr(error, "strerror", None) or str(error)  # without "[Errno -3]"
            raise Unreachable(Unreachable.NO_ADDRESS, f"{name}: {text}") from None
        found: list[Address] = []
        for *_, place in answers:
            # A scope ("%eth0") only exists for link-local addresses, which are judged without it.
            address = canonical(str(place[0]).partition("%")[0])
            if address not in found:
                found.append(address)
        return interleaved(found)[:MOST_ADDRESSES]

    return resolve


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """First of one family and then of the other, so that a broken one hides nothing (RFC 8305, 4).

    The order within a family stays, and the family of the first address comes first.
    """
    first = [each for each in addresses if each.version == addresses[0].version]
    second = [each for each in addresses if each.version != addresses[0].version]
    pairs = itertools.zip_longest(first, second)
    return [each for pair in pairs for each in pair if each is not None]


def canonical(text: str) -> Address:
    """The address in ``text``; an IPv4 address mapped into IPv6 (::ffff:a.b.c.d) becomes IPv4."""
    return hosts.unmapped(ipaddress.ip_address(text))


def is_own(address: Address) -> bool:
    """Whether the address is the VM's own: the kernel would send from that same address.

    All of the loopback's are, and so is the unspecified one, which Linux takes for the loopback.

    Connecting a datagram socket only looks up the route (udp(7)) and sends nothing. Raises
    Unreachable if the look-up fails.
    """
    if address.is_loopback or address.is_unspecified:
        return True
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


async def dial(
    addresses: Sequence[Address], port: int, share: Share
) -> tuple[socket.socket, Address]:
    """Connect to the address that answers first; each next one is tried a moment after the last.

    What that takes of the gate's time is charged to ``share``: who owns all the addresses could
    have thousands of connections answered at once. Raises Unreachable with the last failure. The
    caller bounds the time.
    """
    left = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    failure = Unreachable(Unreachable.NO_ADDRESS, "there is no address")
    try:
        while left or attempts:
            if left:
                address = left.pop(0)
                attempt = functools.partial(_attempt, address, port)
                if not left and not attempts:  # as mostly: no task is needed
                    return await attempt(), address
                attempts[asyncio.create_task(metered(share, attempt))] = address
            done, _ = await asyncio.wait(
                attempts, timeout=NEXT if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                try:
                    sock = task.result()
                except Unreachable as error:
                    failure = error
                    del attempts[task]
                else:
                    return sock, attempts.pop(task)
    finally:
        await _let_go(attempts)
    raise failure


async def _attempt(address: Address, port: int) -> socket.socket:
    """A socket that is connected to the address. Raises Unreachable."""
    try:
        return await connect(_family(address), (str(address), port))
    except OSError as error:
        raise unreachable(error, str(address)) from None


async def _let_go(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    """End attempts that are not needed any more; some may have come through meanwhile."""
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()


async def connect(family: int, place: tuple[str, int] | str) -> socket.socket:
    """A connected, non-blocking stream socket. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            await _connect_unix(sock, place)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not connects_at_once(sock, place):
                await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(sock: socket.socket, place: tuple[str, int] | str) -> None:
    """Connect. asyncio would take the "try again" of a full backlog for "under way"."""
    while True:
        try:
            sock.connect(place)
            return
        except BlockingIOError:
            await asyncio.sleep(_PAUSE)


def unreachable(error: OSError, what: str) -> Unreachable:
    """The Unreachable for a failure to connect."""
    kind = _KINDS.get(error.errno or 0, Unreachable.FAILED)
    # asyncio puts words of its own into strerror; gaierror's numbers are not errno's.
    known = error.errno and not isinstance(error, socket.gaierror)
    text = os.strerror(error.errno or 0) if known else str(error)
    return Unreachable(kind, f"{what}: {text}")


def _family(address: Address) -> int:
    v4 = isinstance(address, ipaddress.IPv4Address)
    return socket.AF_INET if v4 else socket.AF_INET6
