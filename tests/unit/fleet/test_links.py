"""Links through a real server, which is killed: the control socket is one that says all again."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.fleet.frames import WINDOW
from serai.fleet.links import Link, Links
from tests.support import nats_servers
from tests.support.fleet_members import answers, asks, client, member, prepare, prepared, started
from tests.support.nats_servers import Servers
from tests.support.waiting import wait_for

DEADLINE = 60.0
LINKS, SIZE = 200, 200 << 10


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with nats_servers.cluster(
        tmp_path_factory.mktemp("fleet"), 1, ["a", "b"], ["alice", "bob"]
    ) as found:
        asyncio.run(prepared(found))
        yield found


@pytest.fixture
def pid(servers: Servers, tmp_path: Path) -> Iterator[int]:
    """The member's."""
    (tmp_path / "run/serai").mkdir(parents=True)
    with member(servers, "a", tmp_path) as (found,):
        yield found


async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say all that comes once more."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def opened(servers: Servers, root: Path) -> asyncio.AbstractServer:
    # As sessiond's: asyncio takes a connection for made that a full backlog has refused.
    return await asyncio.start_unix_server(again, root / "run/serai/control.sock", backlog=4096)


async def exchange(link: Link, data: bytes, came: list[int] | None = None) -> bytes:
    """What comes back for ``data``, both at once."""
    got = bytearray()

    async def take() -> None:
        while len(got) < len(data):
            piece = await link.read()
            assert piece
            got.extend(piece)
            link.passed(len(piece))
            if came is not None:
                came.append(len(piece))

    await asyncio.gather(link.write(data), take())
    return hashlib.sha256(got).digest()


def memory(pid: int) -> int:
    """Bytes that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def test_no_byte_is_lost_when_the_server_is_killed(
    servers: Servers, pid: int, tmp_path: Path
) -> None:
    some = random.Random(21)
    texts = [some.randbytes(SIZE) for _ in range(LINKS)]
    came: list[int] = []

    async def main() -> None:
        async with await opened(servers, tmp_path), client(servers) as fleet:
            links = await asyncio.gather(*(fleet.link("a") for _ in texts))
            pairs = zip(links, texts, strict=True)
            work = [asyncio.create_task(exchange(link, text, came)) for link, text in pairs]
            for part in (1, 2):
                end = time.monotonic() + DEADLINE
                while sum(came) < part * LINKS * SIZE / 3:
                    assert time.monotonic() < end, sum(came)
                    await asyncio.sleep(0.01)
                (server,) = servers.all
                servers.kill(server)
                servers.start(server)
            done = await asyncio.wait_for(asyncio.gather(*work), DEADLINE)
            assert done == [hashlib.sha256(text).digest() for text in texts]
            await asyncio.gather(*(link.close() for link in links))

    asyncio.run(main())


def test_who_does_not_read_holds_up_nobody_and_takes_little(
    servers: Servers, pid: int, tmp_path: Path
) -> None:
    """Of eight links nobody reads four; what is in memory stays within the windows."""

    async def main() -> None:
        async with await opened(servers, tmp_path), client(servers) as fleet:
            idle = [await fleet.link("a") for _ in range(4)]
            before = memory(pid)
            stuck = [asyncio.create_task(each.write(bytes(64 << 20))) for each in idle]
            for _ in range(4):
                link = await fleet.link("a")
                text = bytes(1 << 20)
                done = await asyncio.wait_for(exchange(link, text), DEADLINE)
                assert done == hashlib.sha256(text).digest()
                await link.close()
            assert not any(each.done() for each in stuck)
            assert memory(pid) - before < 16 * WINDOW * len(idle)
            for each in stuck:
                each.cancel()

    asyncio.run(main())


def test_a_member_that_was_killed_ends_its_links_at_once(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "run/serai").mkdir(parents=True)
    prepare(servers, "a", tmp_path)

    async def there() -> None:
        end = time.monotonic() + DEADLINE
        while not await asks(servers, "a"):
            assert time.monotonic() < end

    async def main() -> None:
        async with await opened(servers, tmp_path), client(servers) as fleet:
            with started(tmp_path):
                await there()
                link = await fleet.link("a")
                assert await exchange(link, b"x") == hashlib.sha256(b"x").digest()
            with started(tmp_path):
                await there()
                # A sign of life of the link may have been the first to ask, and have its answer.
                with pytest.raises(SeraiError, match="the VM knows it no longer"):
                    await link.write(b"y")
                    await asyncio.wait_for(link.read(), DEADLINE)

    asyncio.run(main())


def test_a_key_that_is_withdrawn_ends_its_links_at_once(
    servers: Servers, pid: int, tmp_path: Path
) -> None:
    async def main() -> None:
        async with await opened(servers, tmp_path), client(servers, "bob") as fleet:
            link = await fleet.link("a")
            await asyncio.to_thread(servers.make, revoke=["bob"])
            servers.reload()
            with pytest.raises(SeraiError, match="refuses the certificate"):
                await asyncio.wait_for(link.read(), DEADLINE)

    asyncio.run(main())


def test_a_member_whose_key_is_withdrawn_ends(servers: Servers, tmp_path: Path) -> None:
    prepare(servers, "b", tmp_path)
    with started(tmp_path) as process:
        answers(servers, "b")
        servers.make(revoke=["b"])
        servers.reload()
        assert process.wait(DEADLINE) == 1
    assert "refuses the certificate" in (tmp_path / "member.log").read_text()


def test_a_link_says_nothing_before_its_vm_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM that comes back while it is asked would answer that it knows it no longer."""
    monkeypatch.setattr("serai.fleet.frames.PING_EVERY", 0.0)

    async def publish(_subject: str, _text: bytes) -> None:
        pass

    async def main() -> None:
        links = Links(publish)
        link = links.made("up", "down", "a", known=False)
        links.again()
        link.tick()
        assert links._frames.empty()
        link.known = True
        link.tick()
        assert links._frames.qsize() == 1

    asyncio.run(main())


def test_who_writes_to_a_link_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serai.fleet.links.GOODBYE", 0.01)

    async def main() -> None:
        async def publish(_subject: str, _text: bytes) -> None:
            pass

        link = Links(publish).made("a", "b", "a")
        writing = asyncio.create_task(link.write(bytes(WINDOW + 1)))
        await asyncio.sleep(0)
        await link.close()
        with pytest.raises(SeraiError, match="closed"):
            await asyncio.wait_for(writing, DEADLINE)

    asyncio.run(main())


def test_who_asks_twice_has_one_link(servers: Servers, pid: int, tmp_path: Path) -> None:
    """The answer to the first time may be lost with a server."""

    async def main() -> None:
        async with await opened(servers, tmp_path), client(servers) as fleet:
            key = "0" * 32 + ".1"
            for _ in range(2):
                assert await fleet.asked("a", "open", {"link": key}) == {"link": key}
            assert (await fleet.asked("a", "ask", {"do": "status"}))["links"] == 1

    asyncio.run(main())


def test_a_vm_that_is_gone_is_said_to_be(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serai.fleet.client.FAILING_OVER", 1.0)

    async def main() -> None:
        async with client(servers) as fleet:
            with pytest.raises(SeraiError, match="the VM b is gone"):
                await fleet.link("b")

    asyncio.run(main())


def test_a_row_is_told_and_taken_back(servers: Servers, pid: int) -> None:
    async def alive() -> bool:
        async with client(servers) as fleet:
            return "a" in await fleet.alive() and "a" in await fleet.vms()

    wait_for(lambda: asyncio.run(alive()))
