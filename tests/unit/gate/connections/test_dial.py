"""The order in which addresses are tried, and that the first answer counts."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from serai.gate.connections import dial, share
from serai.gate.connections.share import QUANTUM, SAVINGS, Share
from serai.gate.errors import Unreachable
from serai.gate.policy.hosts import Address


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", ""),
        ("1.0.0.1 1.0.0.2", "1.0.0.1 1.0.0.2"),
        ("::1 ::2 ::3 1.0.0.1", "::1 1.0.0.1 ::2 ::3"),
        ("1.0.0.1 1.0.0.2 ::1 ::2 ::3", "1.0.0.1 ::1 1.0.0.2 ::2 ::3"),
    ],
)
def test_families_alternate_and_keep_their_order(given: str, wanted: str) -> None:
    addresses = [ip_address(each) for each in given.split()]
    assert dial.interleaved(addresses) == [ip_address(each) for each in wanted.split()]


def test_a_name_that_is_not_found_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    async def resolve() -> None:
        with ThreadPoolExecutor(1) as threads:
            await dial.resolver(threads)("a.example")

    with pytest.raises(Unreachable) as caught:
        asyncio.run(resolve())
    assert str(caught.value) == "a.example: Temporary failure in name resolution"


def dialled(
    monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, str]
) -> tuple[str, list[str], list[socket.socket]]:
    """Where a dial ends, the addresses that were tried, and all sockets that were made.

    An address "answers", "refuses", or is "silent".
    """
    tried: list[str] = []
    made: list[socket.socket] = []

    async def connect(_family: int, place: tuple[str, int]) -> socket.socket:
        tried.append(place[0])
        if outcomes[place[0]] == "silent":
            await asyncio.get_running_loop().create_future()
        if outcomes[place[0]] == "refuses":
            raise ConnectionRefusedError(111, "refused")
        made.append(socket.socket())
        return made[-1]

    async def run() -> str:
        addresses: list[Address] = [ip_address(each) for each in outcomes]
        try:
            sock, address = await dial.dial(addresses, 80, Share())
        except Unreachable as failure:
            return failure.kind
        sock.close()
        return str(address)

    monkeypatch.setattr(dial, "connect", connect)
    monkeypatch.setattr(dial, "NEXT", 0)
    return asyncio.run(run()), tried, made


def test_silence_and_refusals_do_not_keep_the_next_address_from_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = {"::1": "silent", "1.0.0.1": "refuses", "::2": "silent", "1.0.0.2": "answers"}
    reached, tried, made = dialled(monkeypatch, outcomes)
    assert (reached, tried) == ("1.0.0.2", list(outcomes))
    assert all(sock.fileno() == -1 for sock in made)


def test_all_that_answer_at_once_but_one_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, _, made = dialled(monkeypatch, {"1.0.0.1": "answers", "1.0.0.2": "answers"})
    assert reached in ("1.0.0.1", "1.0.0.2")
    assert all(sock.fileno() == -1 for sock in made)


def test_the_last_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, tried, _ = dialled(monkeypatch, {"1.0.0.1": "refuses", "1.0.0.2": "refuses"})
    assert (reached, len(tried)) == (Unreachable.REFUSED, 2)
    assert dialled(monkeypatch, {})[0] == Unreachable.NO_ADDRESS


def test_attempts_side_by_side_wait_for_their_sessions_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each costs ten turns of the gate's loop, and as many pass before the next one, as soon as
    what the session saved is spent.
    """
    now, turns = 0.0, 0

    async def connect(_family: int, _place: tuple[str, int]) -> socket.socket:
        nonlocal now
        now += 10 * QUANTUM
        raise ConnectionRefusedError(111, "refused")

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        counting = asyncio.create_task(others())
        with pytest.raises(Unreachable):
            await dial.dial([ip_address(f"1.0.0.{number}") for number in range(8)], 80, Share())
        counting.cancel()

    monkeypatch.setattr(dial, "connect", connect)
    monkeypatch.setattr(share, "clock", lambda: now)
    asyncio.run(run())
    assert turns > 6 * 10 - SAVINGS / QUANTUM
