"""Which methods are noted in the audit log, with what of their parameters, and by whom.

What gives a session more, or changes what it is, is done only if it is noted: as with the gate's
decisions, nobody gets by a log that cannot be written. What takes away is done in any case, and its
answer says if it is not noted yet: nobody has to leave an attack alone because a disk is full, and
removing sessions is how a disk gets room. Commands are noted within a second, because they are not
to wait for the disk.

An entry is made before the method is carried out. If that fails, a second one has the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from serai.common.errors import SeraiError
from serai.common.jsonrpc import Request
from serai.common.jsonrpc_server import Connection, Handler
from serai.runtime.sessions import notes
from serai.runtime.sessions.notes import Entry
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions

log = logging.getLogger("serai")
NAME = re.compile(r"[a-z0-9-]{1,63}")
PATIENCE = 3.0
"""Seconds that what is done in any case waits for the gate."""
MOST = 16 << 10
"""Bytes of parameters in an entry: so a batch of them is a message that the gate takes."""
LONGEST = 256
"""Characters of a command's first word, or of an error."""
ANCESTORS = 16
SOCKET = "socket"
SOON = 0.001  # seconds
UNSET = 0xFFFFFFFF  # no login: proc_pid_loginuid(5)

RULES = ("profile", "allow", "deny", "rules", "cut")
BINDING = ("secret", "service", "hosts", "header", "basic", "query", "variable")
FIRST: dict[str, tuple[str, ...]] = {
    "create": ("profile", "labels", "limits", "env", "sandbox"),
    "set": ("labels", "limits", "env"),
    "switch": ("keep_running",),
    "reopen": (),
    "attach": ("role", "path", "writable"),
    "policy.set": (*RULES, "bind"),
    "policy.allow": RULES,
    "policy.bind": BINDING,
    "secret.set": (),
}
"""Not done unless noted, and the parameters that are."""
ANYWAY: dict[str, tuple[str, ...]] = {
    "stop": (),
    "archive": (),
    "remove": (),
    "detach": ("role",),
    "gc": ("keep_days", "keep_free"),
    "policy.deny": RULES,
    "policy.unbind": BINDING,
    "secret.remove": (),
}
QUEUED = ("exec", "job.start")
"""Of these the first word of the command: arguments may be secrets."""


class Noting:
    """Makes handlers that note what they do."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._peers: WeakKeyDictionary[Connection, Entry] = WeakKeyDictionary()

    def table(self, methods: Mapping[str, tuple[type, Handler]]) -> dict[str, tuple[type, Handler]]:
        """The methods, with those that are noted doing so."""
        return {name: (kind, self._noted(name, does)) for name, (kind, does) in methods.items()}

    def created(self, c: Connection, params: Any) -> Callable[[Record], Awaitable[None]]:
        """What ``Sessions.create`` calls once a session has a name."""

        async def note(record: Record) -> None:
            entry = {**_told("create", params, FIRST["create"]), **notes.of(record)}
            await self._now({**entry, "by": self._peer(c)})

        return note

    @contextlib.asynccontextmanager
    async def noted(
        self, c: Connection, operation: str, record: Record, **more: Any
    ) -> AsyncIterator[None]:
        """Have an operation noted before it is done here, and that it failed. Raises SeraiError."""
        told = {key: value for key, value in more.items() if value not in (None, "")}
        async with self.noted_of_all(c, operation, **notes.of(record), **told):
            yield

    @contextlib.asynccontextmanager
    async def noted_of_all(self, c: Connection, operation: str, **more: Any) -> AsyncIterator[None]:
        """The same of what is done with the VM. Raises SeraiError."""
        entry = {"operation": operation, **more, "by": self._peer(c)}
        await self._now(entry)
        try:
            yield
        except Exception as error:
            self._failed(entry, error)
            raise

    def _noted(self, method: str, does: Handler) -> Handler:
        if method in QUEUED:
            return self._queued(method, does)
        if method == "create":  # it has no name before: see ``created``
            return does
        if method not in FIRST and method not in ANYWAY:
            return does

        async def handler(c: Connection, r: Request, p: Any) -> Any:
            if (entry := self._entry(method, c, p)) is None:
                return await does(c, r, p)
            recorded = True
            if method in FIRST:
                await self._now(entry)
            else:
                recorded = await self._if_possible(entry)
            try:
                answer = await does(c, r, p)
            except Exception as error:
                self._failed(entry, error)
                raise
            return answer if recorded else {**(answer or {}), "recorded": False}

        return handler

    def _failed(self, entry: Entry, error: Exception) -> None:
        said = str(error) if isinstance(error, SeraiError) else "sessiond has a defect"
        self._sessions.notes.later({**entry, "error": said[:LONGEST]})

    def _queued(self, method: str, does: Handler) -> Handler:
        def handler(c: Connection, r: Request, p: Any) -> Any:
            if (session := self._session(p.name)) is not None and p.argv:
                entry = {"operation": method, **session, "command": p.argv[0][:LONGEST]}
                entry["by"] = {"uid": c.uid, "pid": c.pid, "via": SOCKET}
                self._sessions.notes.later(entry)
                # While the command starts, which takes longer, and the client waits for it.
                loop = asyncio.get_running_loop()
                loop.call_later(SOON, lambda: entry.update(by=self._peer(c)))
            return does(c, r, p)

        return handler

    def _entry(self, method: str, c: Connection, params: Any) -> Entry | None:
        """What to note; None if nothing can come of it."""
        told = _told(method, params, (FIRST | ANYWAY)[method])
        if method.startswith("secret."):
            # What is no name may be the secret itself, given in the wrong place.
            told["secret"] = params.name if NAME.fullmatch(params.name) else ""
        elif method == "gc":
            if params.dry_run:
                return None
        elif (session := self._session(params.name)) is None:
            return None
        else:
            told |= session
        return {**told, "by": self._peer(c)}

    def _session(self, name: str) -> Entry | None:
        try:
            return notes.of(self._sessions.registry.get(name))
        except SeraiError:
            return None  # the method says so itself

    async def _now(self, entry: Entry) -> None:
        try:
            await self._sessions.notes.now(entry)
        except SeraiError as error:
            text = f"{entry['operation']} is not done, as it cannot be noted: {error.message}"
            raise SeraiError(text, error.hint, error.code) from None

    async def _if_possible(self, entry: Entry) -> bool:
        try:
            await asyncio.wait_for(self._sessions.notes.now(entry), PATIENCE)
        except (SeraiError, asyncio.TimeoutError) as error:
            self._sessions.notes.later(entry)
            why = str(error) or "the gate does not answer"
            log.error("%s is done, and not noted yet: %s", entry["operation"], why)
            return False
        return True

    def _peer(self, c: Connection) -> Entry:
        if (known := self._peers.get(c)) is None:
            known = self._peers[c] = peer(c.pid, c.uid)
        return known


def _told(method: str, params: Any, keys: tuple[str, ...]) -> Entry:
    """The operation and what is noted of its parameters: those that say something."""
    found = {key: getattr(params, key, None) for key in keys}
    told = {key: value for key, value in found.items() if value not in (None, "", [], {}, False)}
    if "env" in told:
        told["env"] = sorted(told["env"])  # values may be secrets
    if (size := len(json.dumps(told, default=str))) > MOST:
        told = {"parameters": f"{size} bytes, too many for an entry"}
    return {"operation": method, **told}


def peer(pid: int, uid: int) -> Entry:
    """Who is at the other end: a process, and how it came, as far as can be seen.

    ``via`` is ``vsock``, ``ssh`` (then ``from`` is the address) or ``socket``. ``login`` is the
    user who logged in, who may have become root since. Who may command sessiond could hide that,
    for a process can call itself what it likes.
    """
    by: Entry = {"uid": uid, "pid": pid, "via": SOCKET}
    with contextlib.suppress(OSError, ValueError):  # it is gone, or the kernel has no audit
        if (login := int(_read(pid, "loginuid"))) != UNSET:
            by["login"] = login
        if b"/serai-vsock@" in _read(pid, "cgroup"):
            return {**by, "via": "vsock"}
        below = each = pid
        for _ in range(ANCESTORS):
            before, _, after = _read(each, "stat").rpartition(b")")
            if before.partition(b"(")[2] in (b"sshd", b"sshd-session"):
                return {**by, "via": "ssh", **_from(_read(below, "environ"))}
            below, each = each, int(after.split(None, 2)[1])
            if each <= 1:
                break
    return by


def _read(pid: int, name: str) -> bytes:
    """A file of a process. Not by pathlib, which takes four times as long."""
    descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64 << 10)
    finally:
        os.close(descriptor)


def _from(environ: bytes) -> Entry:
    """The client's address, as sshd tells it to what it starts."""
    for variable in environ.split(b"\0"):
        if variable.startswith(b"SSH_CONNECTION="):
            return {"from": variable.partition(b"=")[2].split(b" ")[0].decode("ascii", "replace")}
    return {}
