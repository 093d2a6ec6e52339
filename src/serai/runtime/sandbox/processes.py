"""A running session's processes, as /proc shows them to the VM."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from serai.common import bridge, linux, proc
from serai.common.errors import TIMEOUT, SeraiError
from serai.runtime.sandbox import bwrap

DEADLINE = 15.0
FIRST = 0.004
OFTEN = 0.001
"""Seconds until the first look at a sandbox that starts, and from one to the next, at least."""
TERMINALS = 512
"""Each costs about 25 KiB that the kernel counts for nobody: pts(4), "max"."""


def init_of(main: int) -> int | None:
    """The VM's PID of the sandbox's PID 1: the child of the unit's main process, bubblewrap.

    None while it is not there yet. Raises SeraiError if the main process is gone.
    """
    for child in proc.children(main):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{child}/status").read_text()
            for line in status.splitlines():
                if line.startswith("NSpid:") and line.split()[1:][1:] == ["1"]:
                    return child
    if not Path(f"/proc/{main}").exists():
        raise SeraiError("the sandbox ended while it was starting")
    return None


def limit_terminals(init: int) -> None:
    """Let the sandbox have so many terminals and no more. Raises OSError.

    bubblewrap knows no option for it. Its /dev is read-only, so this is its own devpts.
    """
    options = {"mode": "620", "ptmxmode": "666", "max": str(TERMINALS)}
    linux.reconfigure(f"/proc/{init}/root/dev/pts", options)


def limit_memory_files(init: int, room: int) -> None:
    """Let each of the sandbox's file systems in memory have so many bytes. Raises OSError.

    None of the paths can be a symlink of the session's: what they are mounted on is read-only.
    """
    for path in (bwrap.SHARED_MEMORY, *bwrap.IN_MEMORY):
        linux.reconfigure(f"/proc/{init}/root{path}", {"size": str(room)})


async def ready(main: int, *, bridge: bool = True, deadline: float = DEADLINE) -> int:
    """Wait for the sandbox's PID 1, which is returned, and for both ports of the bridge.

    Without ``bridge`` for PID 1 only: in a session that runs already, payloads may have ended the
    bridge or stopped it. Raises SeraiError if the sandbox ends or needs more than ``deadline`` s.
    """
    begin = time.monotonic()
    init = None
    while True:
        init = init or init_of(main)
        try:
            if init is not None and (not bridge or _listens(init)):
                return init
        except OSError:
            # It is ending: reading a zombie's net folder fails with EINVAL.
            init = None
        waited = time.monotonic() - begin
        if waited > deadline:
            what = "the bridge" if bridge else "the sandbox"
            raise SeraiError(f"{what} did not answer within {deadline:g} s", code=TIMEOUT)
        # Where many start at once, looking often would take the time that they need.
        await asyncio.sleep(max(OFTEN, waited / 12) if waited > FIRST else FIRST)


def _listens(init: int) -> bool:
    # Nobody else has a socket in a sandbox that has just started, and one is counted from listen(2)
    # on. The table of connections would tell the ports, but takes milliseconds to read, however
    # short it is: the kernel goes through all of its hash buckets.
    return any(
        proc.sockets(table.read_text()) >= len(bridge.PORTS)
        for table in (Path(f"/proc/{init}/net/sockstat{family}") for family in ("6", ""))
        if table.exists()
    )
