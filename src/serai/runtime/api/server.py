"""sessiond: the control socket, and the life of the daemon around it."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from serai.common import files, jsonrpc_server
from serai.common.errors import SeraiError
from serai.common.notify import notify
from serai.common.paths import Paths
from serai.runtime import settings
from serai.runtime.api import methods
from serai.runtime.api.forwards import AT_ONCE
from serai.runtime.sessions import changes
from serai.runtime.sessions.collector import Collector
from serai.runtime.sessions.payloads.payloads import Payloads
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.steps import homes
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.steps.goals import no_fault
from serai.runtime.sessions.supervising.supervisor import Supervisor
from serai.runtime.sessions.watches import disk, idle, limits, sockets

log = logging.getLogger("serai")
GROUP = "serai"


def refusal(sock: socket.socket) -> str:
    """Why the peer may not ask anything: unless it is root or in the group ``serai``."""
    _, uid, gid = jsonrpc_server.credentials(sock)
    wanted = group_id()
    if uid == 0 or (wanted != 0 and wanted in jsonrpc_server.groups(sock) | {gid}):
        return ""
    return f"this takes root or the group {GROUP}"


def group_id() -> int:
    """The GID of the group ``serai``; root's where there is none."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return 0


def listen(paths: Paths) -> socket.socket:
    """The control socket, in the place of one that a daemon before may have left."""
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    return files.listening(paths.control, 4096, group_id())


async def serve(
    paths: Paths,
    supervisor: Supervisor,
    fault: Callable[[str], None] = no_fault,
) -> None:
    """Be the daemon until SIGTERM or SIGINT. Raises SeraiError if it cannot start."""
    held = _hold(paths)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    changed_settings = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, changed_settings.set)
    rules = settings.load(paths.settings)
    await supervisor.apply(rules)
    homes.prepare(paths)
    registry = Registry(paths.registry)
    gate = GateClient(paths.gate_control)
    subscribers = jsonrpc_server.Subscribers()

    def changed(event: str, record: Record) -> None:
        subscribers.announce(event, methods.shown(record))

    sessions = Sessions(paths, registry, supervisor, rules, gate, changed=changed, fault=fault)
    payloads = Payloads(sessions)
    await sessions.reconcile()
    collector = Collector(sessions)
    handlers = methods.Methods(sessions, payloads, gate, collector, subscribers)
    server = jsonrpc_server.Server(
        listen(paths),
        handlers.table,
        "sessiond",
        refusal,
        with_descriptors=methods.DESCRIPTORS,
        at_once=AT_ONCE,
    )
    sessions.keep(disk.run(lambda: sessions.settings.disk, collector, subscribers.announce))
    sessions.keep(limits.run(lambda: limits.look(sessions), subscribers))
    sessions.keep(idle.run(sessions, gate, subscribers.announce))
    sessions.keep(sessions.notes.run())
    sessions.keep(sessions.pool.run())
    sessions.keep(sockets.run(sessions, subscribers.announce))
    sessions.keep(_reload(changed_settings, sessions, supervisor))
    notify("READY=1")
    log.info("ready")
    await stop.wait()
    notify("STOPPING=1")
    await server.close()
    payloads.close()
    await sessions.close()
    os.close(held)


async def _reload(asked: asyncio.Event, sessions: Sessions, supervisor: Supervisor) -> None:
    """Whenever asked, take the settings as they are now; wrong ones change nothing."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            rules = settings.load(sessions.paths.settings)
            await supervisor.apply(rules)
        except (SeraiError, OSError) as error:
            log.error("the settings of before stay: %s", error)
            continue
        sessions.use(rules)
        await changes.limit_again(sessions)
        log.info("the settings were read again")


def main() -> int:
    """The daemon as its unit starts it; returns the exit status.

    With ``--check`` it only says what is wrong with its settings.
    """
    from serai.runtime.sessions.supervising.systemd import Systemd  # noqa: PLC0415  # takes jeepney, which tests do without

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    os.umask(0o022)
    try:
        if sys.argv[1:] == ["--check"]:
            settings.load(Paths().settings)
        else:
            asyncio.run(serve(Paths(), Systemd()))
    except SeraiError as error:
        log.error("%s", error)
        return 1
    return 0


def _hold(paths: Paths) -> int:
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SeraiError("another sessiond runs already") from None
    return descriptor
