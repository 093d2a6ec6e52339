"""serai-gate: the daemon around the gate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serai.common.errors import SeraiError
from serai.common.notify import notify
from serai.common.paths import Paths
from serai.gate import control, secrets, settings
from serai.gate.audit.writer import Log
from serai.gate.connections import dial
from serai.gate.credentials import Credentials
from serai.gate.egress import Egress
from serai.gate.gate import Gate
from serai.gate.secrets import Store
from serai.gate.tls.authority import Authority
from serai.gate.tls.ending import VM_ROOTS, TlsEnding

log = logging.getLogger("serai.gate")
LOOKUPS = 64  # at once, of all sessions
SYNC = 1.0  # seconds
USES = 60.0  # seconds
RENEW = 3600.0  # seconds
SMALLEST = 1 << 20  # bytes of a file of the audit log


async def serve(paths: Paths) -> None:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reads the profiles again.

    Raises SeraiError or OSError if it cannot start.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    rules = settings.load(paths.gate_settings)
    audit = Log(paths.audit, file_size(paths.audit, rules.audit), rules.audit.files)
    store = secrets.opened(paths.secrets, paths.gate_key)
    executor = ThreadPoolExecutor(LOOKUPS, "lookup")
    credentials = _credentials(paths, store, rules.tls)
    ending = TlsEnding(rules.tls, None if credentials is None else credentials.authority)
    egress = Egress(rules, audit, dial.resolver(executor), ending=ending, secrets=store)
    gate = Gate(paths, egress, credentials)
    gate.start()
    loop.add_signal_handler(signal.SIGHUP, _reload, gate)
    server = control.serve(paths.gate_control, control.Control(gate, paths.audit, store))
    works = [loop.create_task(_sweep(gate)), loop.create_task(_sync(audit))]
    works.append(loop.create_task(_note_uses(store)))
    works.append(loop.create_task(_renew(gate, credentials)))
    notify("READY=1")
    log.info("ready")
    await stop.wait()
    notify("STOPPING=1")
    await server.close()
    for work in works:
        work.cancel()
    await asyncio.gather(*works, return_exceptions=True)
    await gate.stop()
    executor.shutdown(wait=False, cancel_futures=True)
    with contextlib.suppress(OSError):
        audit.sync()
    audit.close()
    with contextlib.suppress(OSError):
        if store is not None:
            store.note_uses()


def _credentials(
    paths: Paths, store: secrets.Store | None, rules: settings.Tls
) -> Credentials | None:
    """What gives sessions placeholders and certificates: nothing without a store."""
    if store is None:
        return None
    folder = paths.gate_run / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    return Credentials(store, Authority(store, folder), Path(rules.roots or VM_ROOTS))


def file_size(folder: Path, rules: settings.Audit) -> int:
    """How large a file of the audit log may become: at most half a percent of its disk.

    Of the disk 2 percent are kept for the gate and for root (serai.disk.prepare): so there is room
    for the newest file, and for the registry, when sessions have filled the rest.
    """
    disk = os.statvfs(folder if folder.exists() else folder.parent)
    return min(rules.file_size, max(disk.f_blocks * disk.f_frsize // 200, SMALLEST))


def main(paths: Paths | None = None) -> int:
    """The daemon as its unit starts it; returns the exit status. Tests give other ``paths``."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_serve_and_exit(paths or Paths()))
    except SeraiError as error:
        log.error("%s", error)
        return 1
    return 0


async def _serve_and_exit(paths: Paths) -> None:
    await serve(paths)
    # A lookup may hang in its thread for long: Python would wait for it, and all sessions with it.
    os._exit(0)


def _reload(gate: Gate) -> None:
    try:
        gate.reload()
        log.info("the profiles are read again")
    except SeraiError as error:
        log.error("the profiles stay as they were: %s", error)


async def _sweep(gate: Gate) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(gate.sweep_interval)
        gate.sweep(loop.time())


async def _renew(gate: Gate, credentials: Credentials | None) -> None:
    """Tell sessions of new certificates, long before the old ones end."""
    while credentials is not None:
        await asyncio.sleep(RENEW)
        try:
            if credentials.authority.renew():
                gate.refresh()
        except (OSError, SeraiError) as error:
            log.error("the gate's certificates are not renewed: %s", error)


async def _sync(audit: Log) -> None:
    """Write the audit log to the disk every second, so that a power cut loses at most that."""
    while True:
        await asyncio.sleep(SYNC)
        try:
            # In a thread, for a slow disk must not stop everybody.
            await asyncio.to_thread(audit.sync)
        except OSError as error:
            log.error("the audit log is not on the disk yet: %s", error)


async def _note_uses(store: Store | None) -> None:
    """Write down when secrets were last used, once a minute: it is worth no request's time."""
    while store is not None:
        await asyncio.sleep(USES)
        try:
            await asyncio.to_thread(store.note_uses)
        except OSError as error:
            log.warning("when secrets were used is not noted: %s", error)
