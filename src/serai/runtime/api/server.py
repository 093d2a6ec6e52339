"""sessiond: the control socket, and the life of the daemon around it."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import grp
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from serai.common.notify import notify
from serai.common.paths import Paths
from serai.runtime import settings
from serai.runtime.api import connection, methods, rpc
from serai.runtime.api.connection import Connection
from serai.runtime.errors import INTERNAL, NOT_PERMITTED, UNKNOWN_METHOD, SeraiError
from serai.runtime.sessions import homes, quota, watch
from serai.runtime.sessions.gate_client import Gate
from serai.runtime.sessions.payloads import Payloads
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.sessions import Sessions, no_fault
from serai.runtime.sessions.supervisor import Supervisor

log = logging.getLogger("serai")
GROUP = "serai"
MAX_CLIENTS = 512
MAX_PENDING = 64


class Server:
    """Accepts clients of the control socket and carries out what they ask for."""

    def __init__(self, listener: socket.socket, handlers: methods.Methods) -> None:
        self._listener = listener
        self._handlers = handlers
        self._clients: set[Connection] = set()
        self._pending: dict[Connection, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def changed(self, event: str, record: Record) -> None:
        """Tell every subscriber."""
        self.announce(event, methods.shown(record))

    def announce(self, event: str, params: dict[str, Any]) -> None:
        """Tell every subscriber of what concerns no single session."""
        line = rpc.notification(event, params)
        for client in [each for each in self._clients if each.subscribed]:
            client.send(line)

    async def close(self) -> None:
        """Drop every client; payloads that are not detached end with theirs."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for client in list(self._clients):
            client.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            # The client is gone again, or we have no descriptor left for it.
            log.warning("no client accepted: %s", error)
            return
        problem = None
        if not permitted(sock):
            problem = SeraiError(f"this takes root or the group {GROUP}", code=NOT_PERMITTED)
        elif len(self._clients) >= MAX_CLIENTS:
            problem = SeraiError(f"there are {MAX_CLIENTS} clients already", "try again later")
        client = Connection(sock, self._received, self._lost)
        self._clients.add(client)
        if problem is not None:
            client.send(rpc.error(None, problem))
            client.close()

    def _lost(self, client: Connection) -> None:
        self._clients.discard(client)
        self._pending.pop(client, None)

    def _received(self, client: Connection, line: bytes) -> None:
        try:
            request = rpc.parse(line)
        except SeraiError as error:
            client.send(rpc.error(rpc.request_id(line), error))
            return
        if self._pending.get(client, 0) >= MAX_PENDING:
            problem = SeraiError(f"{MAX_PENDING} requests are under way on this connection")
            client.send(rpc.error(request.id, problem))
            return
        self._pending[client] = self._pending.get(client, 0) + 1
        if request.method in methods.DESCRIPTORS:
            taken = tuple(client.take_descriptors())
            request = dataclasses.replace(request, descriptors=taken)
        task = asyncio.get_running_loop().create_task(self._answer(client, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, client: Connection, request: rpc.Request) -> None:
        try:
            answer = rpc.result(request.id, await self._call(client, request))
        except SeraiError as error:
            answer = rpc.error(request.id, error)
        except Exception:
            log.exception("%s failed", request.method)
            problem = SeraiError("sessiond has a defect", "see its log", INTERNAL)
            answer = rpc.error(request.id, problem)
        if client in self._pending:
            self._pending[client] -= 1
        if request.reply:
            client.send(answer)

    async def _call(self, client: Connection, request: rpc.Request) -> Any:
        try:
            if request.method not in self._handlers.table:
                name = ascii(request.method)[:60]
                known = ", ".join(self._handlers.table)
                raise SeraiError(f"there is no method {name}", f"known: {known}", UNKNOWN_METHOD)
            kind, handler = self._handlers.table[request.method]
            params: Any = rpc.check(kind, request.params)
        except SeraiError:
            connection.close(request.descriptors)
            raise
        return await handler(client, request, params)


def permitted(sock: socket.socket) -> bool:
    """Whether the peer is root or in the group ``serai``: unix(7), SO_PEERCRED."""
    _, uid, gid = connection.credentials(sock)
    if uid == 0:
        return True
    wanted = group_id()
    return wanted != 0 and wanted in connection.groups(sock) | {gid}


def group_id() -> int:
    """The GID of the group ``serai``; root's where there is none."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return 0


def listen(paths: Paths) -> socket.socket:
    """The control socket, in the place of one that a daemon before may have left."""
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = paths.control.with_name(".control.new")
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(draft))
    os.chown(draft, 0, group_id())
    draft.chmod(0o660)
    listener.listen(4096)
    draft.rename(paths.control)
    return listener


async def serve(
    paths: Paths,
    supervisor: Supervisor,
    fault: Callable[[str], None] = no_fault,
) -> None:
    """Be the daemon until SIGTERM or SIGINT. Raises SeraiError if it cannot start."""
    held = _hold(paths)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    rules = settings.load(paths.policy)
    await supervisor.apply(rules)
    homes.prepare(paths)
    registry = Registry(paths.registry)
    gate = Gate(paths.gate_control)
    sessions = Sessions(paths, registry, supervisor, rules, gate, fault=fault)
    payloads = Payloads(sessions)
    await sessions.reconcile()
    handlers = methods.Methods(sessions, payloads, gate)
    server = Server(listen(paths), handlers)
    sessions.tell(server.changed)
    sessions.keep(
        watch.disk(
            rules.disk,
            lambda: quota.free(paths.sessions),
            server.announce,
            lambda: handlers.make_room(rules.disk.act_free),
        )
    )
    notify("READY=1")
    log.info("ready")
    await stop.wait()
    notify("STOPPING=1")
    await server.close()
    payloads.close()
    await sessions.close()
    os.close(held)


def main() -> int:
    """The daemon as its unit starts it; returns the exit status."""
    from serai.runtime.sessions.systemd import Systemd  # noqa: PLC0415  # takes jeepney, which tests do without

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    os.umask(0o022)
    try:
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
