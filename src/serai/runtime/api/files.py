"""The methods for files: what comes in and out of a path role's directory without a mount.

Each is a process of its own (transfer), streamed as a payload is: over descriptors that the client
sends, or by ``exec.input`` and ``exec.output``.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serai.common.errors import FAILED, INVALID_PARAMS, WRONG_STATE, SeraiError
from serai.common.jsonrpc import Request, notification
from serai.common.jsonrpc_server import Connection, Handler, credentials
from serai.common.tables import setting
from serai.runtime.api.exec import Executions, Stream, check_descriptors
from serai.runtime.folders import path_roles, scope, transfer
from serai.runtime.sandbox.enter import Entered
from serai.runtime.sessions.payloads import waking
from serai.runtime.sessions.payloads.payloads import Payload, Payloads
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import FACTS


@dataclass(frozen=True)
class Transfer:
    """``path`` is relative to the path role's directory."""

    name: str
    role: str
    path: str = ""
    stdio: str = setting(
        "stream",
        "fds: one descriptor comes with the message, which is read for put and tree.put, and else"
        " written. bytes: as stream, output not in base64",
        choices=("fds", "stream", "bytes"),
    )


TAKES = frozenset({"put", "tree.put", "file.batch", "import"})
GIVES = frozenset({"get", "ls", "tree.get", "file.batch", "file.watch", "export", "backup"})
"""The methods that have an input, and those that have an output."""
CLEARS = 60.0
"""Seconds in which a transfer that is cut off removes what it has unpacked."""
PAUSE = 0.05  # seconds


@dataclass
class Ends:
    """Descriptors: the process's standard three and its ``confirm``, and our side of them."""

    theirs: list[int] = field(default_factory=list)
    input: int | None = None
    output: int | None = None
    confirm: int | None = None

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = []

    def close_ours(self) -> None:
        for descriptor in (self.input, self.output, self.confirm):
            if descriptor is not None:
                os.close(descriptor)


class Transfers:
    """Starts transfers and answers when they have ended."""

    def __init__(self, sessions: Sessions, payloads: Payloads, executions: Executions) -> None:
        self._sessions = sessions
        self._payloads = payloads
        self._executions = executions
        self._count = 0
        self._writing: set[Payload] = set()
        self.table: dict[str, tuple[type, Handler]] = {
            "put": (Transfer, self.put),
            "get": (Transfer, self.get),
            "ls": (Transfer, self.ls),
            "tree.put": (Transfer, self.tree_put),
            "tree.get": (Transfer, self.tree_get),
            "file.batch": (Transfer, self.batch),
            "file.watch": (Transfer, self.watch),
        }

    async def put(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Put a file in a path role's directory, whole or not at all."""
        return await self._transfer("put", c, r, p)

    async def get(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Get a file out of a path role's directory."""
        return await self._transfer("get", c, r, p)

    async def ls(self, c: Connection, r: Request, p: Transfer) -> Any:
        """List a path role's directory, or one below it: a JSON object a line."""
        return await self._transfer("ls", c, r, p)

    async def tree_put(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Unpack a tar archive in a path role's directory; a wrong one changes nothing."""
        return await self._transfer("tree.put", c, r, p)

    async def tree_get(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Get a path role's directory, or one below it, as a tar archive."""
        return await self._transfer("tree.get", c, r, p)

    async def batch(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Make, remove, move and look at what is in a folder: an operation a line."""
        if p.stdio == "fds":
            raise SeraiError("file.batch has an input and an output", "stream it", INVALID_PARAMS)
        return await self._transfer("file.batch", c, r, p)

    async def watch(self, c: Connection, r: Request, p: Transfer) -> Any:
        """Tell what changes in a folder, a JSON object a line, until the client hangs up."""
        return await self._transfer("file.watch", c, r, p)

    async def _transfer(self, operation: str, c: Connection, r: Request, p: Transfer) -> Any:
        try:
            check_given(p.stdio, r.descriptors)
            plan = self._plan(operation, p)
            if operation in TAKES:
                await waking.wake(self._sessions, p.name)  # its programs are to see what comes
                plan = self._plan(operation, p)  # by now it may have begun to move
        except BaseException:
            close(r.descriptors)
            raise
        return await self.carry(c, r, p.stdio, plan, p.name)

    async def carry(  # noqa: PLR0917  # a request, and what is to be done
        self, c: Connection, r: Request, stdio: str, plan: transfer.Plan, name: str, told: int = -1
    ) -> Any:
        """Run a transfer, and stream for it; the request's descriptors are closed.

        ``told`` is what it gets as its input, if it takes none. ``name`` is the session's.
        """
        try:
            ends = _ends(plan.operation, list(r.descriptors))
            if told >= 0:
                _replace(ends.theirs, 0, os.dup(told))
            report = os.memfd_create("report")
            try:
                process, payload = self._start(plan, name, ends, report)
            except BaseException:
                ends.close_ours()
                os.close(report)
                raise
            finally:
                ends.close_theirs()
        finally:
            close(r.descriptors)
        try:
            news = {"request": r.id, "exec": payload.id, "pid": process.pid}
            c.send(notification("exec.started", news))
            raw = stdio == "bytes"
            stream = Stream(payload, ends.input, confirm=ends.confirm, raw=raw, is_transfer=True)
            output = [] if ends.output is None else [(ends.output, "stdout")]
            if plan.operation in TAKES:
                self._writing.add(payload)
            result = await self._executions.follow(c, stream, output, None, None)
            process.returncode = result.status
            if result.status != 0:
                raise _problem(report)
        finally:
            self._writing.discard(payload)
            os.close(report)
        return {}

    async def end_writes(self, name: str) -> None:
        """End what still writes into a session that takes nothing more; its client is told."""
        while there := [each for each in self._writing if each.session == name]:
            for payload in there:
                self._payloads.send(payload, signal.SIGTERM)
            await asyncio.sleep(PAUSE)

    def _plan(self, operation: str, p: Transfer) -> transfer.Plan:
        role = path_roles.find(p.role)
        scope.check(p.path)
        record = self._sessions.registry.get(p.name)
        if FACTS[record.state].home != "open" or record.goal is not None:
            hint = f"'serai reopen {p.name}' brings it back"
            raise SeraiError(f"session {p.name} is {record.state.value}", hint, WRONG_STATE)
        attached = self._sessions.folders.path_of(record.uid, p.role)
        return transfer.Plan(
            operation,
            p.path,
            str(self._sessions.paths.sessions),
            record.name,
            record.uid,
            role.folder,
            attached,
            # Only the sessions disk is ours to keep free.
            0 if attached else self._sessions.settings.disk.reserve,
        )

    def _start(
        self, plan: transfer.Plan, name: str, ends: Ends, report: int
    ) -> tuple[subprocess.Popen[bytes], Payload]:
        self._count += 1
        source, target, *confirm = ends.theirs
        # The plan holds no descriptor's number that the process does not have under that number.
        plan = plan._replace(confirm=confirm[0] if confirm else -1)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", transfer.__file__, plan.encode()],
            stdin=source,
            stdout=target,
            stderr=report,
            pass_fds=confirm,
            start_new_session=True,
            env={},
        )
        entered = Entered(process.pid, os.pidfd_open(process.pid), None)
        number = f"{os.getpid()}-t{self._count}"
        return process, Payload(number, name, entered, None, False, grace=CLEARS)


def check_given(stdio: str, given: Sequence[int]) -> None:
    """Raise SeraiError unless the right descriptors came with a request."""
    check_descriptors(len(given), 1 if stdio == "fds" else 0)
    if any(map(_leads_here, given)):
        raise SeraiError("a connection to sessiond is no place for files", code=INVALID_PARAMS)


def close(descriptors: Iterable[int]) -> None:
    """Close what came with a request."""
    for each in descriptors:
        os.close(each)


def _ends(operation: str, given: list[int]) -> Ends:
    """The descriptors of a transfer: the client's own, or pipes to stream through."""
    ends = Ends([os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in (0, 1)])
    if given:
        _replace(ends.theirs, 0 if operation in TAKES else 1, os.dup(given[0]))
        return ends
    if operation in GIVES:
        ends.output, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ends.output, False)
        _replace(ends.theirs, 1, write)
    if operation in TAKES:
        read, ends.input = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ends.input, False)
        _replace(ends.theirs, 0, read)
        told, ends.confirm = os.pipe2(os.O_CLOEXEC)
        ends.theirs.append(told)
    return ends


def _replace(ends: list[int], at: int, descriptor: int) -> None:
    os.close(ends[at])
    ends[at] = descriptor


def _leads_here(descriptor: int) -> bool:
    """Whether this is a client's end: a file's bytes would be read as the client's requests."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as end:
        try:
            return credentials(end)[0] == os.getpid()
        except OSError:  # of a family that knows no such thing
            return False


def _problem(report: int) -> SeraiError:
    text = os.pread(report, 65536, 0)
    with contextlib.suppress(ValueError, TypeError, EOFError):
        message, hint, code = marshal.loads(text)  # noqa: S302  # from our own program
        return SeraiError(message, hint, code)
    lines = text.decode(errors="replace").strip().splitlines()
    return SeraiError(f"the transfer failed: {lines[-1] if lines else 'cut off'}", code=FAILED)
