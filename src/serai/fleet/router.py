"""``nats://`` without a VM: one connection of a client's, whose requests go to the VMs they mean.

A request that names a session, or a job of one, goes to its VM; the answers come back as they are.
IDs that VMs make up get the VM's name in front, since two VMs may make up the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from serai import __version__
from serai.common import jsonrpc
from serai.common.errors import (
    INVALID_PARAMS,
    NOT_FOUND,
    OTHER_VERSION,
    TOO_LARGE,
    UNKNOWN_METHOD,
    SeraiError,
)
from serai.common.jsonrpc import BYTES, EARLY, MAX_LINE, PROTOCOL, Request
from serai.fleet.client import FleetClient
from serai.fleet.placing import Placing
from serai.fleet.subjects import CLAIMS
from serai.fleet.way import WayToVm
from serai.runtime.sessions import names

BY_NAME = frozenset(
    {
        *("set", "show", "switch", "stop", "archive", "reopen", "remove", "exec", "attach"),
        *("detach", "hints", "put", "get", "ls", "tree.put", "tree.get", "file.watch"),
        *("file.batch", "job.start", "job.list", "forward.open", "policy.show", "policy.set"),
        *("policy.allow", "policy.deny", "policy.bind", "policy.unbind", "policy.explain"),
        *("export", "export.describe", "move.begin", "move.show", "move.end"),
    }
)
BY_JOB = frozenset({"job.show", "job.read", "job.wait", "job.signal", "job.input"})
BY_ID = {
    **dict.fromkeys(("exec.signal", "exec.input", "exec.resize"), "exec"),
    **dict.fromkeys(("forward.close", "forward.connect"), "forward"),
}
"""Methods about what a VM has made up an ID for, and the parameter that has it."""
BY_STREAM = frozenset({"forward.data", "forward.taken", "forward.end"})
OWN = frozenset({"version", "create", "list"})
MOST_PENDING = 512


class Router:
    """Serves one client until it hangs up."""

    def __init__(
        self, fleet: FleetClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._fleet, self._reader, self._writer = fleet, reader, writer
        self._out = asyncio.Lock()
        self._ways: dict[str, asyncio.Task[WayToVm]] = {}
        self._where: dict[str, str] = {}
        self._streams: dict[object, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._nonce = secrets.token_hex(8)
        self._placing = Placing(fleet, self.call, self._way)

    async def run(self) -> None:
        """Carry on until the client hangs up."""
        try:
            while line := await self._reader.readline():
                if line.strip():
                    await self._take(line)
        except (ValueError, asyncio.LimitOverrunError):
            problem = SeraiError(f"a message has at most {MAX_LINE} bytes", code=TOO_LARGE)
            await self.say(jsonrpc.error(None, problem))
        except OSError:  # it is gone
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            ways = map(self._open, self._ways)
            await asyncio.gather(*(way.close() for way in ways if way is not None))

    async def say(self, text: bytes) -> None:
        """Send to the client, when it reads."""
        async with self._out:
            self._writer.write(text)
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def call(self, vm: str, method: str, params: dict[str, Any]) -> Any:
        """Call a method of a VM for the router itself. Raises SeraiError."""
        number = f"{self._nonce}-{next(self._numbers)}"
        way = await self._way(vm)
        return await way.call(number, method, params)

    async def _take(self, line: bytes) -> None:
        try:
            request = jsonrpc.parse(line)
        except SeraiError as error:
            await self.say(jsonrpc.error(jsonrpc.request_id(line), error))
            return
        method, params = request.method, request.params
        try:
            if method in BY_ID:
                vm, _, own = str(params.get(BY_ID[method])).partition(":")
                if method == "forward.connect":
                    self._streams[_key(params.get("stream"))] = vm
                params = {**params, BY_ID[method]: own}
                await self._pass(vm, request, params)
            elif method in BY_STREAM:
                vm = self._streams.get(_key(params.get("stream")), "")
                await self._pass(vm, request, params)
            elif (way := self._open(self._where.get(name := _name(request), ""))) is not None:
                await way.send(request, params, name)
            else:
                self._start(request, name)
        except SeraiError as error:
            await self._refuse(request, error)

    async def _pass(self, vm: str, request: Request, params: dict[str, Any]) -> None:
        """Raises SeraiError."""
        if (way := self._open(vm)) is None:
            if request.method in BY_STREAM and not request.reply:
                return
            raise SeraiError("no such payload or forward is on this connection", code=NOT_FOUND)
        await way.send(request, params, "")

    def _open(self, vm: str) -> WayToVm | None:
        """The way to a VM if it is open. Nobody waits here: it would hold up all other VMs'."""
        task = self._ways.get(vm)
        ready = task is not None and task.done() and not (task.cancelled() or task.exception())
        return task.result() if task is not None and ready else None

    def _start(self, request: Request, name: str) -> None:
        if len(self._tasks) - len(self._ways) >= MOST_PENDING:  # each way is a task, too
            raise SeraiError(f"{MOST_PENDING} requests are under way on this connection")
        self.later(self._answer(request, name))

    async def _answer(self, request: Request, name: str) -> None:
        try:
            if request.method in OWN:
                work: dict[str, Any] = await self._own(request.method, request.params)
                if request.reply:
                    await self.say(jsonrpc.result(request.id, work))
                return
            vm = self._where.get(name) or await self.where(name)
            await (await self._way(vm)).send(request, request.params, name)
        except SeraiError as error:
            await self._refuse(request, error)
        except Exception as error:  # whatever a VM's words may lead to
            problem = SeraiError(f"{request.method} failed: {type(error).__name__}")
            await self._refuse(request, problem)

    async def _own(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "version":
            return version(params)
        if method == "list":
            return await self._list(params)
        made = await self._placing.create(params)
        self._where[made["name"]] = made["vm"]
        return made

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params.get("labels") or {}
        if not isinstance(wanted, dict):
            raise SeraiError("labels must be a table", code=INVALID_PARAMS)
        alive, found = await asyncio.gather(self._fleet.alive(), self._fleet.sessions())
        rows = [each for each in found if wanted.items() <= each["labels"].items()]
        gone = {"state": "gone", "goal": None}
        shown = [each if each["vm"] in alive else {**each, **gone} for each in rows]
        return {"sessions": sorted(shown, key=lambda each: each["created_at"])}

    async def where(self, name: str, *, claimed: bool = True) -> str:
        """The VM that has a session. Raises SeraiError.

        The claim decides, which only clients can make. Rows are the VMs' own: two VMs may both say
        that they have it.
        """
        claim = await self._fleet.claimed(CLAIMS, name) if claimed else None
        if claim is not None:
            self._where[name] = claim.vm
            return claim.vm
        vms = sorted({each["vm"] for each in await self._fleet.sessions(name)})
        if len(vms) > 1:
            hint = f"name one VM: nats://…/{vms[0]}"
            raise SeraiError(f"{' and '.join(vms)} both have a session {name}", hint)
        if not vms:
            raise SeraiError(f"there is no session {name}", "'serai list' shows them", NOT_FOUND)
        self._where[name] = vms[0]
        return str(vms[0])

    async def strayed(self, name: str, vm: str) -> str | None:
        """Where a session is that a VM says it has not, if one other VM has it."""
        self._where.pop(name, None)
        vms = {str(each["vm"]) for each in await self._fleet.sessions(name)}
        if vm in vms or len(vms) != 1:
            return None
        (other,) = vms
        claim = await self._fleet.claimed(CLAIMS, name)
        if claim is not None and claim.vm == vm:
            await self._fleet.reclaim(CLAIMS, name, claim, replace(claim, vm=other))
        self._where[name] = other
        return other

    async def removed(self, name: str, vm: str) -> None:
        """A session is gone for good: its name is free."""
        self._where.pop(name, None)
        claim = await self._fleet.claimed(CLAIMS, name)
        if claim is not None and claim.vm == vm:
            await self._fleet.give_back(CLAIMS, name, claim)

    async def resend(self, vm: str, line: dict[str, Any], name: str) -> None:
        """Send a request to another VM than it was sent to."""
        request = Request(line["id"], line["method"], line["params"])
        try:
            way = await self._way(vm)
            await way.send(request, request.params, name, last=True)
        except SeraiError as error:
            await self._refuse(request, error)

    def lost(self, way: WayToVm) -> None:
        """A way is over."""
        self._ways.pop(way.vm, None)
        self._where = {name: vm for name, vm in self._where.items() if vm != way.vm}
        self._streams = {each: vm for each, vm in self._streams.items() if vm != way.vm}

    def leads(self, stream: object, vm: str) -> bool:
        """Whether a stream of a forward is one to that VM."""
        return self._streams.get(_key(stream)) == vm

    def ended(self, stream: object) -> None:
        """A stream of a forward is over."""
        self._streams.pop(_key(stream), None)

    def later(self, work: Awaitable[None]) -> None:
        """Have something done beside all else."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _way(self, vm: str) -> WayToVm:
        """The way to a VM, opened if there is none. Raises SeraiError."""
        task = self._ways.get(vm)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._ways[vm] = asyncio.create_task(self._opened(vm))
        return await asyncio.shield(task)

    async def _opened(self, vm: str) -> WayToVm:
        way = WayToVm(self, vm, await self._fleet.link(vm))
        self.later(way.run())
        return way

    async def _refuse(self, request: Request, error: SeraiError) -> None:
        if request.reply:
            await self.say(jsonrpc.error(request.id, error))


def version(params: dict[str, Any]) -> dict[str, Any]:
    """What the router can do. Raises SeraiError for a client that it cannot speak with."""
    if params.get("protocol", PROTOCOL) != PROTOCOL:
        raise SeraiError(f"this speaks protocol {PROTOCOL}", "upgrade the older one", OTHER_VERSION)
    methods = [*OWN, *BY_NAME, *BY_JOB, *BY_ID, *BY_STREAM]
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "image": None,
        "capabilities": sorted([*methods, BYTES, EARLY]),
    }


def _name(request: Request) -> str:
    """The session that a request is about; "" if it is one of the router's own.

    Raises SeraiError if it is about none.
    """
    method, params = request.method, request.params
    if method in OWN:
        return ""
    if method not in BY_NAME | BY_JOB:
        hint = "name one of its VMs: nats://…/VM"
        raise SeraiError(f"{method!a} is not for a whole fleet", hint, UNKNOWN_METHOD)
    if params.get("stdio") == "fds":
        raise SeraiError("no descriptor passes to another VM", code=INVALID_PARAMS)
    name = str(params.get("job", "")).partition("/")[0] if method in BY_JOB else params.get("name")
    if (
        not isinstance(name, str)
        or not names.PATTERN.fullmatch(name)
        or len(name) > names.MAX_LENGTH
    ):
        hint = "name one, or one VM: nats://…/VM"
        raise SeraiError(f"{method} must name a session", hint, INVALID_PARAMS)
    return name


def _key(stream: object) -> object:
    return stream if isinstance(stream, int) else None
