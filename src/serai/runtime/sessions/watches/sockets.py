"""Stops a session that keeps the kernel's memory in netlink sockets which nobody reads.

No cgroup counts what lies in such a socket, and each holds some hundred KiB. A session with many of
them would take the whole memory of the VM, and the kernel would then end other sessions' processes
first. Programs need these sockets to list network interfaces (getifaddrs(3)), so there is no
refusing them.

The VM's free memory is looked at often. Sessions are looked at only while much of it is in use, as
it also is where many idle. To read one's table, the kernel goes through the sockets of all. So it
is read only of those that have enough sockets to hold much, and looking takes a twentieth of a CPU
at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from serai.common import proc
from serai.common.errors import SeraiError
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State

log = logging.getLogger(__name__)
PERIOD = 0.5
Announce = Callable[[str, dict[str, Any]], None]
MOST = 64 << 20
"""Bytes of a session. Programs that list interfaces hold some KiB, for a moment."""
KERNEL, AVAILABLE = 1 / 8, 1 / 2
"""The kernel's part of all memory from which on, and the available part up to which, sessions are
looked at."""
REST = 19
"""So many times as long as a look took nobody looks."""
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_RMEM = 4
"""The column of /proc/PID/net/netlink with the bytes that wait to be read."""


async def run(sessions: Sessions, announce: Announce, period: float = PERIOD) -> None:
    """Look every ``period`` seconds, until cancelled."""
    stopping: set[str] = set()
    while True:
        begin = time.monotonic()
        try:
            if scarce(Path("/proc/meminfo").read_text()):
                await look(sessions, announce, stopping)
        except OSError as error:
            log.error("nobody watches the sessions' sockets: %s", error)
        await asyncio.sleep(max(period, REST * (time.monotonic() - begin)))


def scarce(meminfo: str) -> bool:
    """Whether much of the VM's memory is in use, by the text of /proc/meminfo."""
    found = proc.memory(meminfo)
    whole = found["MemTotal"]
    return found["SUnreclaim"] > whole * KERNEL or found["MemAvailable"] < whole * AVAILABLE


def held(table: Iterable[str]) -> int:
    """Bytes that wait in netlink sockets: as soon as they are more than MOST, or all of them.

    ``table`` are the lines of /proc/PID/net/netlink.
    """
    total = 0
    for line in table:
        fields = line.split()
        if len(fields) > _RMEM and fields[_RMEM].isdigit():  # the first line names the columns
            total += int(fields[_RMEM])
        if total > MOST:
            break
    return total


def enough(sockstat: str, largest: int) -> bool:
    """Whether a session's sockets, whatever they are, could hold too much.

    ``sockstat`` is the text of /proc/PID/net/sockstat, ``largest`` net.core.rmem_max: socket(7). A
    socket may hold twice that, and the message with which it exceeds it.
    """
    return int(sockstat.split(None, 3)[2]) * 4 * largest > MOST


def _held(pid: int, largest: int) -> int:
    try:
        with Path(f"/proc/{pid}/net/sockstat").open(encoding="ascii") as text:
            if not enough(text.readline(), largest):
                return 0
        with Path(f"/proc/{pid}/net/netlink").open(encoding="ascii") as table:
            return held(table)
    except OSError:
        return 0  # it has ended


async def look(sessions: Sessions, announce: Announce, stopping: set[str]) -> None:
    """Have each session stopped that holds too much and is not ``stopping`` yet.

    None of them can make the others wait.
    """
    largest = int(RMEM_MAX.read_text())
    for record in sessions.registry.all():
        running, name = sessions.running(record), record.name
        if running is None or name in stopping:
            continue
        # In a thread: the table may have a line for each of a million sockets.
        if await asyncio.to_thread(_held, running.init, largest) > MOST:
            stopping.add(name)
            sessions.keep(_stop(sessions, record, running.init, announce, stopping))


async def _stop(
    sessions: Sessions, record: Record, init: int, announce: Announce, stopping: set[str]
) -> None:
    def wanted(now: Record) -> State | None:
        unit = sessions.running(now)
        return State.STOPPED if unit is not None and unit.init == init else None

    name = record.name
    try:
        goal = await sessions.settle(name, wanted)
    except (SeraiError, OSError) as error:
        log.error("session %s holds the kernel's memory and does not stop: %s", name, error)
        return
    finally:
        stopping.discard(name)
    if goal is not None:
        reason = f"it kept over {MOST >> 20} MiB of the kernel's memory in sockets nobody read"
        sessions.reasons[record.uid] = reason
        log.warning("session %s is stopped: %s", name, reason)
        announce("session.limited", {"name": name, "limit": "sockets", "count": 1})
