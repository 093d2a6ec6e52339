"""A running session's processes, as /proc shows them to the VM."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from serai.runtime.errors import TIMEOUT, SeraiError

BRIDGE_PORTS = frozenset({3128, 1080})
DEADLINE = 15.0
_LISTEN = "0A"


def listening(table: str) -> set[int]:
    """The TCP ports listened on, from /proc/PID/net/tcp or tcp6 (proc(5))."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == _LISTEN}


def sockets(sockstat: str) -> int:
    """How many TCP sockets are in use, from /proc/PID/net/sockstat or sockstat6."""
    for line in sockstat.splitlines():
        if line.startswith(("TCP: inuse ", "TCP6: inuse ")):
            return int(line.split()[2])
    return 0


def init_of(main: int) -> int | None:
    """The VM's PID of the sandbox's PID 1: the child of the unit's main process, bubblewrap.

    None while it is not there yet. Raises SeraiError if the main process is gone.
    """
    try:
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for child in children:
            status = Path(f"/proc/{child}/status").read_text()
            for line in status.splitlines():
                if line.startswith("NSpid:") and line.split()[1:][1:] == ["1"]:
                    return int(child)
    except (FileNotFoundError, ProcessLookupError):
        if not Path(f"/proc/{main}").exists():
            raise SeraiError("the sandbox ended while it was starting") from None
    return None


async def ready(main: int, deadline: float = DEADLINE) -> int:
    """Wait until both ports of the bridge are listened on; returns the sandbox's PID 1.

    Raises SeraiError if the sandbox ends or needs more than ``deadline`` seconds.
    """
    end = time.monotonic() + deadline
    init = None
    while True:
        init = init or init_of(main)
        try:
            if init is not None and _listens(init):
                return init
        except OSError:
            # It is ending: reading a zombie's net folder fails with EINVAL.
            init = None
        if time.monotonic() > end:
            raise SeraiError(f"the bridge did not answer within {deadline:g} s", code=TIMEOUT)
        await asyncio.sleep(0.001)


async def exited(child: int) -> None:
    """Return once a child process has ended; it is left for the caller to reap. No threads."""
    pidfd = os.pidfd_open(child)
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)


async def readable(descriptor: int) -> None:
    """Return once there is something to read; a pidfd is readable when its process has ended."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(descriptor, _resolve, future)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return once something can be written."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_writer(descriptor, _resolve, future)
    try:
        await future
    finally:
        loop.remove_writer(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _listens(init: int) -> bool:
    # The table of connections takes milliseconds to read, however short it is: the kernel goes
    # through all of its hash buckets. So the number of sockets is looked at first.
    return any(
        sockets(Path(f"/proc/{init}/net/sockstat{family}").read_text()) >= len(BRIDGE_PORTS)
        and listening(Path(f"/proc/{init}/net/tcp{family}").read_text()) >= BRIDGE_PORTS
        for family in ("6", "")
        if Path(f"/proc/{init}/net/tcp{family}").exists()
    )
