"""Sessions as systemd units, over D-Bus. Who supervises is passed in: tests need no systemd.

The manager's private socket is spoken to directly: it answers without a bus daemon in between and
starts a unit without the ~10 ms that forking systemctl costs (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_method_call

from serai.common import files
from serai.common.errors import TIMEOUT, SeraiError
from serai.runtime.sessions.supervising import dbus
from serai.runtime.sessions.supervising.supervisor import (
    DROP_IN,
    Property,
    drop_in,
    folder_settings,
    folder_unit,
    unit,
)
from serai.runtime.settings import SessionSettings

PRIVATE_SOCKET = Path("/run/systemd/private")
MANAGER = DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
JOB_DEADLINE = 30.0
FORMER = "50-policy.conf"
"""An older Serai's drop-in, which would count after a session's own limits."""


class Systemd:
    """The system manager, through one connection that is made again when it is lost."""

    def __init__(self, socket: Path = PRIVATE_SOCKET, settings: Path = DROP_IN) -> None:
        self._socket = socket
        self._settings = settings
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._serial = 0
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}
        # Results of jobs that ended before the reply naming them was read.
        self._ended: dict[str, str] = {}

    async def apply(self, settings: SessionSettings) -> None:
        text = drop_in(settings)
        if not self._settings.exists() or self._settings.read_text() != text:
            self._settings.parent.mkdir(parents=True, exist_ok=True)
            self._settings.with_name(FORMER).unlink(missing_ok=True)
            files.write(self._settings, text.encode(), durable=False)
            await self._call("Reload")

    async def start(self, name: str) -> int:
        await self._job("StartUnit", name)
        pid = await self._main_pid(unit(name))
        if pid == 0:
            raise SeraiError(
                f"the unit of session {name} ended at once", f"see 'journalctl -u {unit(name)}'"
            )
        return pid

    async def limit(self, name: str, limits: Sequence[Property], *, own: bool) -> None:
        # As drop-ins, which it keeps until the VM is restarted, also for a later session of that
        # name: whoever finds any overwrites them. Others are spared three files.
        folder = self._settings.parents[1]
        kept = folder.with_name(f"{folder.name}.control") / f"{unit(name)}.d"
        if own or kept.exists():
            await self._call("SetUnitProperties", "sba(sv)", (unit(name), True, list(limits)))

    async def stop(self, name: str) -> None:
        try:
            await self._job("StopUnit", name)
        except BusError as error:
            if error.name != "org.freedesktop.systemd1.NoSuchUnit":
                raise
        with contextlib.suppress(BusError):
            await self._call("ResetFailedUnit", "s", (unit(name),))

    async def start_folder(self, name: str, role: str, program: Sequence[str]) -> int:
        settings = folder_settings(name, role, program)
        wanted = folder_unit(name, role)
        body: tuple[Any, ...] = (wanted, "replace", settings, [])
        await self._await_job("StartTransientUnit", "ssa(sv)a(sa(sv))", body, wanted)
        return await self._main_pid(wanted)

    async def stop_folder(self, name: str, role: str) -> None:
        wanted = folder_unit(name, role)
        with contextlib.suppress(BusError):
            await self._await_job("StopUnit", "ss", (wanted, "replace"), wanted)
        with contextlib.suppress(BusError):
            await self._call("ResetFailedUnit", "s", (wanted,))

    async def running(self) -> dict[str, int]:
        states = ["active", "activating", "reloading"]
        reply = await self._call("ListUnitsByPatterns", "asas", (states, [unit("*")]))
        names = [str(row[0]).partition("@")[2].removesuffix(".service") for row in reply[0]]
        pids = {name: await self._main_pid(unit(name)) for name in names}
        return {name: pid for name, pid in pids.items() if pid}

    async def _main_pid(self, wanted: str) -> int:
        address = DBusAddress(
            dbus.unit_path(wanted), MANAGER.bus_name, "org.freedesktop.DBus.Properties"
        )
        interface = "org.freedesktop.systemd1.Service"
        try:
            ((_, pid),) = await self._call("Get", "ss", (interface, "MainPID"), address)
        except BusError:
            return 0
        return int(pid)

    async def _job(self, method: str, name: str) -> None:
        await self._await_job(method, "ss", (unit(name), "replace"), unit(name))

    async def _await_job(
        self, method: str, signature: str, body: tuple[Any, ...], wanted: str
    ) -> None:
        (path,) = await self._call(method, signature, body)
        result = self._ended.pop(path, None)
        if result is None:
            future = self._jobs[path] = asyncio.get_running_loop().create_future()
            try:
                result = await asyncio.wait_for(future, JOB_DEADLINE)
            except asyncio.TimeoutError:
                raise SeraiError(
                    f"systemd did not finish {method} of {wanted} in {JOB_DEADLINE:g} s",
                    code=TIMEOUT,
                ) from None
            finally:
                self._jobs.pop(path, None)
        if result != "done":
            raise SeraiError(
                f"systemd's {method} of {wanted} ended with '{result}'",
                f"see 'journalctl -u {wanted}'",
            )

    async def _call(
        self,
        method: str,
        signature: str | None = None,
        body: tuple[Any, ...] = (),
        address: DBusAddress = MANAGER,
    ) -> tuple[Any, ...]:
        writer = await self._connected()
        self._serial += 1
        serial = self._serial
        message = new_method_call(address, method, signature, body)
        message.header.serial = serial
        future = self._replies[serial] = asyncio.get_running_loop().create_future()
        try:
            writer.write(message.serialise())
            reply = await asyncio.wait_for(future, JOB_DEADLINE)
        except (asyncio.TimeoutError, OSError) as error:
            raise SeraiError(f"systemd does not answer {method}: {error!r}", code=TIMEOUT) from None
        finally:
            self._replies.pop(serial, None)
        if reply.header.message_type is MessageType.error:
            raise BusError(str(reply.header.fields[HeaderFields.error_name]), reply.body)
        return tuple(reply.body)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                try:
                    reader, writer = await asyncio.open_unix_connection(self._socket)
                    identity = str(os.geteuid()).encode().hex().encode()
                    writer.write(b"\0AUTH EXTERNAL " + identity + b"\r\nBEGIN\r\n")
                    greeting = await asyncio.wait_for(reader.readline(), JOB_DEADLINE)
                except (OSError, asyncio.TimeoutError) as error:
                    raise SeraiError(f"cannot reach systemd at {self._socket}: {error}") from None
                if not greeting.startswith(b"OK "):
                    writer.close()
                    raise SeraiError(f"systemd refuses the connection: {greeting!r}")
                self._writer = writer
                self._reader_task = asyncio.create_task(self._read(reader, writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                buffer += data
                for raw in dbus.taken(buffer):
                    for message in Parser().feed(raw):
                        self._received(message)
        finally:
            writer.close()
            lost = SeraiError("the connection to systemd was lost")
            for future in (*self._replies.values(), *self._jobs.values()):
                if not future.done():
                    future.set_exception(lost)

    def _received(self, message: Message) -> None:
        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            if fields.get(HeaderFields.member) == dbus.JOB_REMOVED:
                _, path, _, result = message.body
                self._job_ended(path, result)
            return
        future = self._replies.get(fields.get(HeaderFields.reply_serial, 0))
        if future is not None and not future.done():
            future.set_result(message)

    def _job_ended(self, path: str, result: str) -> None:
        future = self._jobs.get(path)
        if future is not None and not future.done():
            future.set_result(result)
            return
        self._ended[path] = result
        while len(self._ended) > 100:  # noqa: PLR2004  # others' jobs, which nobody here waits for
            del self._ended[next(iter(self._ended))]


class BusError(SeraiError):
    """systemd's answer to a call was an error; ``name`` is its D-Bus name."""

    def __init__(self, name: str, body: tuple[Any, ...]) -> None:
        super().__init__(f"systemd: {body[0] if body else name}")
        self.name = name
