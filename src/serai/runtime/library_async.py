"""The library for programs with an event loop: ``from serai import connect_async``.

async with connect_async("ssh://root@vm") as vm:
    session = await vm.create(labels={"task": "42"})
    async with session.stream(["make", "test"]) as process:
        async for name, data in process:
            ...

What streams is carried by the event loop itself, each command on a connection of its own: a task
that is cancelled ends its command. All else is the library for programs without one, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serai.common.errors import GONE, TOO_LARGE, SeraiError
from serai.common.jsonrpc import MOST_AT_ONCE
from serai.runtime.client import MOST_OUTPUT, Client, Completed
from serai.runtime.dialogue import Dialogue, Piece, parts
from serai.runtime.library import Session, Vm, command
from serai.runtime.local_files import split
from serai.runtime.process import completed

THREADS = 8
MOST_KEPT = 1 << 20
"""Bytes of output above which nothing more is taken before somebody has read them."""
T = TypeVar("T")


class AsyncVm:
    """A VM. Any number of tasks may use it at the same time."""

    def __init__(self, address: str = "", timeout: float | None = None) -> None:
        """See ``connect_async``."""
        self._address, self._timeout = address, timeout
        self._idle: list[Vm] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="serai")

    async def __aenter__(self) -> AsyncVm:
        try:
            await self.do(lambda vm: vm.call("version"))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Commands that are streamed end by themselves, sessions stay."""
        self._closed = True
        while self._idle:
            await self.thread(self._idle.pop().close)
        self._threads.shutdown(wait=False)

    async def create(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        profile: str | None = None,
        limits: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        sandbox: str | None = None,
    ) -> AsyncSession:
        """Make a session and start it. Raises SeraiError."""
        words: dict[str, Any] = {"labels": labels, "profile": profile, "limits": limits, "env": env}
        made = await self.do(lambda vm: vm.create(name, sandbox=sandbox, **words))
        return AsyncSession(self, made.name)

    async def session(self, name: str) -> AsyncSession:
        """The session ``name``, which exists. Raises SeraiError."""
        return AsyncSession(self, (await self.do(lambda vm: vm.session(name))).name)

    async def do(self, work: Callable[[Vm], T]) -> T:
        """Do anything that a ``Vm`` can, in a thread. Raises what that raises.

        If this is cancelled, the connection is closed, and ``work`` ends with an error.
        """
        vm = self._idle.pop() if self._idle else await self.thread(self._connected)
        try:
            return await self.thread(self._carry_out, vm, work)
        except asyncio.CancelledError:
            vm.abandon()
            raise

    def _carry_out(self, vm: Vm, work: Callable[[Vm], T]) -> T:
        try:
            return work(vm)
        finally:
            if vm.abandoned or self._closed:
                vm.close()
            else:
                self._idle.append(vm)

    async def another(self) -> Client:
        """A connection that is the caller's to close. Raises SeraiError."""
        return await self.do(lambda vm: vm.another())

    async def thread(self, work: Callable[..., T], *words: Any) -> T:
        """Call something that waits."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *words)

    def _connected(self) -> Vm:
        return Vm(self._address, self._timeout)


class AsyncSession:
    """A session of a VM."""

    def __init__(self, vm: AsyncVm, name: str) -> None:
        self.vm = vm
        self.name = name

    async def do(self, work: Callable[[Session], T]) -> T:
        """Do anything that a ``Session`` can: ``await s.do(lambda s: s.files.mkdir("tmp/a"))``."""
        return await self.vm.do(lambda vm: work(Session(vm, self.name)))

    def stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
        tty: bool = False,
    ) -> AsyncProcess:
        """A command that starts with ``async with``, and ends with it at the latest."""
        params = command(self.name, argv, env, cwd, timeout)
        return AsyncProcess(self.vm, "exec", {**params, "tty": tty})

    async def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
        limit: int = MOST_OUTPUT,
    ) -> Completed:
        """Run a command with ``input`` on its stdin; returns when it has ended. Raises SeraiError.

        One that writes more than ``limit`` bytes is ended, and that is an error.
        """
        pieces: list[Piece] = []
        async with self.stream(argv, env=env, cwd=cwd, timeout=timeout) as process:
            feeding = asyncio.ensure_future(process.feed(input))
            try:
                async for name, data in process:
                    limit -= len(data)
                    if limit < 0:
                        raise SeraiError("the command wrote too much and was ended", "", TOO_LARGE)
                    pieces.append((name, data))
            finally:
                feeding.cancel()
                await asyncio.wait({feeding})
                # That it was not all taken is the command's affair.
                feeding.cancelled() or feeding.exception()
            return process.completed(pieces)

    async def watch(self, path: str) -> AsyncGenerator[dict[str, Any], None]:
        """What changes below the directory, see ``Files.watch``. Raises SeraiError."""
        role, name = split(path)
        params = {"name": self.name, "role": role, "path": name}
        rest = b""
        async with AsyncProcess(self.vm, "file.watch", params) as process:
            async for _, data in process:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)
            process.result()


class AsyncProcess:
    """A command that runs. Iterate over it for its output; ``async with`` ends it.

    One task may read while another one writes.
    """

    def __init__(self, vm: AsyncVm, method: str, params: dict[str, Any]) -> None:
        self._vm, self._method, self._params = vm, method, params
        self._client: Client
        self._dialogue: Dialogue
        self._reading, self._writing = asyncio.Lock(), asyncio.Lock()
        self._taken = asyncio.Event()

    async def __aenter__(self) -> AsyncProcess:
        self._client = await self._vm.another()
        try:
            self._client.socket.setblocking(False)
            params = {**self._params, "stdio": self._client.stdio}
            self._dialogue = Dialogue(await self._send(self._method, params))
            while not (self._dialogue.exec or self._dialogue.over):
                await self._receive()
            if not self._dialogue.exec:
                self.result()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Its output as it comes, until it has ended. Whoever reads slowly slows it down."""
        while True:
            if (piece := self._dialogue.piece()) is not None:
                self._taken.set()
                yield piece
            elif self._dialogue.over:
                return
            else:
                await self._receive()

    async def write(self, data: bytes) -> None:
        """Give it input; returns when that is on its way. Raises SeraiError.

        This waits if the command does not read, and if nobody reads what it writes.
        """
        for each in parts(data):
            await self._input(each)

    async def close_input(self) -> None:
        """It gets no more input. Raises SeraiError."""
        await self._input(b"")

    async def feed(self, data: bytes) -> None:
        """All of its input. Raises SeraiError."""
        await self.write(data)
        await self.close_input()

    async def signal(self, name: str) -> None:
        """Send its process group a signal, such as INT. Raises SeraiError."""
        await self._tell("exec.signal", {"signal": name})

    async def resize(self, rows: int, columns: int) -> None:
        """Its terminal has another size. Raises SeraiError."""
        await self._tell("exec.resize", {"rows": rows, "columns": columns})

    async def wait(self) -> Completed:
        """Wait for its end, and forget what it writes until then. Raises SeraiError."""
        async for _ in self:
            pass
        return self.completed([])

    def completed(self, pieces: list[Piece]) -> Completed:
        """How it ended, after its last piece. Raises SeraiError."""
        return completed(self._dialogue, pieces)

    def result(self) -> dict[str, Any]:
        """What was answered at its end. Raises SeraiError."""
        return self._dialogue.result()

    async def _input(self, data: bytes) -> None:
        while self._dialogue.full and not self._dialogue.over:
            if self._dialogue.kept <= MOST_KEPT:
                await self._receive()
            else:
                self._taken.clear()
                await self._taken.wait()
        if not self._dialogue.over:
            self._dialogue.sent(await self._send("exec.input", self._dialogue.input(data)))

    async def _tell(self, method: str, params: dict[str, Any]) -> None:
        await self._send(method, {"exec": self._dialogue.exec, **params})

    async def _send(self, method: str, params: dict[str, Any]) -> int:
        number, line = self._client.request(method, params)
        async with self._writing:
            try:
                await asyncio.get_running_loop().sock_sendall(self._client.socket, line)
            except OSError as error:
                raise SeraiError(f"the VM does not listen any more: {error}", "", GONE) from None
        return number

    async def _receive(self) -> None:
        """Take what has come, or wait for it; one task does for all."""
        if self._reading.locked():
            async with self._reading:
                return  # another one has just taken something
        async with self._reading:
            if (message := self._client.buffered()) is None:
                loop = asyncio.get_running_loop()
                try:
                    self._client.feed(await loop.sock_recv(self._client.socket, MOST_AT_ONCE))
                except OSError as error:
                    raise SeraiError(f"no answer from the VM: {error}", "", GONE) from None
                message = self._client.buffered()
            if message is not None:
                self._dialogue.take(message)
        # Others may have waited for this.
        await asyncio.sleep(0)

    async def _close(self) -> None:
        # At once, so that the command ends though this task is cancelled again.
        with contextlib.suppress(OSError):
            self._client.socket.shutdown(socket.SHUT_RDWR)
        await asyncio.shield(self._vm.thread(self._client.close))


def connect_async(address: str = "", timeout: float | None = None) -> AsyncVm:
    """As ``connect``, for ``async with``."""
    return AsyncVm(address, timeout)
