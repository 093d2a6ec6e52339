"""Commands that stream, with an event loop and without: what is common, and what a task adds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai import connect, connect_async
from serai.common.errors import GONE, TOO_LARGE, SeraiError
from serai.runtime import library_async
from serai.runtime.library import Session, Vm
from serai.runtime.library_async import AsyncSession
from tests.support.local_payloads import Local, serving
from tests.support.waiting import wait_for

Server = tuple[str, Local]
COPY = ["cat"]
DEADLINE = 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as found:
        yield found


def test_output_comes_while_input_goes(server: Server) -> None:
    data = os.urandom(3_000_000)
    with connect(server[0]) as vm, Session(vm, "one").stream(COPY) as process:
        process.write(b"first")
        assert next(iter(process)) == ("stdout", b"first")
        process.write(data)  # more than pipes hold: what comes back is kept meanwhile
        process.close_input()
        assert b"".join(piece for _, piece in process) == data
        assert process.wait().status == 0


def test_a_command_ends_with_its_block(server: Server) -> None:
    with connect(server[0]) as vm:
        with Session(vm, "one").stream(["sleep", "999"]) as process:
            assert len(server[1].running) == 1
            process.signal("INT")
            assert process.wait().signal == 2
        with Session(vm, "one").stream(["sleep", "999"]):
            pass
        wait_for(lambda: not server[1].running)
        with pytest.raises(SeraiError, match="argv names no command"):
            Session(vm, "one").stream([])


def test_tasks_run_beside_each_other(server: Server) -> None:
    data = os.urandom(2_000_000)

    async def main() -> None:
        async with connect_async(server[0]) as vm:
            session = AsyncSession(vm, "one")
            found = await asyncio.gather(*(session.run(COPY, input=data) for _ in range(4)))
            assert all(done.stdout == data and done.status == 0 for done in found)
            done = await session.run(["sh", "-c", "echo no >&2; exit 3"], input=data)
            assert (done.status, done.stderr) == (3, b"no\n")

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_one_task_reads_while_another_writes(server: Server) -> None:
    data = os.urandom(2_000_000)

    async def main() -> bytes:
        async with (
            connect_async(server[0]) as vm,
            AsyncSession(vm, "one").stream(COPY) as process,
        ):
            writing = asyncio.ensure_future(process.feed(data))
            found = b"".join([piece async for _, piece in process])
            await writing
            assert (await process.wait()).status == 0
            return found

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == data


def test_a_writer_waits_for_who_reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_async, "MOST_KEPT", 100_000)

    async def main() -> None:
        async with (
            connect_async(server[0]) as vm,
            AsyncSession(vm, "one").stream(COPY) as process,
        ):
            writing = asyncio.ensure_future(process.feed(bytes(8_000_000)))
            while process._dialogue.kept <= library_async.MOST_KEPT:
                await asyncio.sleep(0.01)
            assert not writing.done() and process._dialogue.kept < 1_000_000
            assert len(b"".join([piece async for _, piece in process])) == 8_000_000
            await writing

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_a_cancelled_task_ends_its_command(server: Server) -> None:
    async def main() -> None:
        async with connect_async(server[0]) as vm:
            session = AsyncSession(vm, "one")
            task = asyncio.ensure_future(session.run(["sleep", "999"]))
            while not server[1].running:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while server[1].running:
                await asyncio.sleep(0.01)
            assert (await session.run(["true"])).status == 0

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_a_cancelled_call_gives_its_connection_up(server: Server) -> None:
    seen: list[Vm] = []

    def show(vm: Vm) -> object:
        seen.append(vm)
        return vm.call("show", name="one")  # which is never answered

    async def main() -> None:
        async with connect_async(server[0]) as vm:
            task = asyncio.ensure_future(vm.do(show))
            while not seen:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while seen[0]._client.fileno() >= 0:  # its thread has ended, too
                await asyncio.sleep(0.01)
            with pytest.raises(SeraiError, match="given up") as caught:
                seen[0].call("version")
            assert caught.value.code == GONE
            assert (await vm.do(lambda other: other.call("version")))["version"] == "1"

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_too_much_output_ends_the_command(server: Server) -> None:
    async def main() -> None:
        async with connect_async(server[0]) as vm:
            with pytest.raises(SeraiError, match="wrote too much") as caught:
                await AsyncSession(vm, "one").run(["yes"], limit=100_000)
            assert caught.value.code == TOO_LARGE
            while server[1].running:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_a_vm_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(SeraiError, match="cannot reach sessiond"):
            async with connect_async(f"unix://{tmp_path}/none"):
                pass

    asyncio.run(main())
