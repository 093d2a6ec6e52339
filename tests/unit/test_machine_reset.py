"""A guest's reset, with an emulator that hangs in it: QEMU does not do so on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from serai.image import machine
from serai.image.errors import BuildError


class Emulator:
    """A QEMU whose firmware hangs in its first ``hangs`` resets, and writes 7 bytes after others.

    It has the part of QMPClient that is used.
    """

    def __init__(self, hangs: int) -> None:
        self.console = 1000
        self.resets = 0
        self._hangs = hangs
        self._events: asyncio.Queue[str] = asyncio.Queue()

    def reset(self) -> None:
        self.resets += 1
        self._events.put_nowait("RESET")
        if self.resets > self._hangs:
            asyncio.get_running_loop().call_later(0.01, self._speak)

    def _speak(self) -> None:
        self.console += 7

    async def execute(self, name: str) -> None:
        assert name == "system_reset"
        self.reset()

    @contextmanager
    def listener(self, name: str) -> Iterator[asyncio.Queue[str]]:
        assert name == "RESET"
        yield self._events


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("serai.image.console.warn", said.append)
    monkeypatch.setattr(machine, "_FIRMWARE_SILENCE", 0.2)
    return said


def reboot(monkeypatch: pytest.MonkeyPatch, hangs: int, *, at_all: bool = True) -> Emulator:
    async def scene() -> Emulator:
        emulator = Emulator(hangs)

        @asynccontextmanager
        async def connected(_: Path) -> AsyncIterator[Emulator]:
            yield emulator

        monkeypatch.setattr(machine, "_connected", connected)
        trigger = emulator.reset if at_all else lambda: None
        await machine._reset(Path("qmp"), trigger, lambda: emulator.console, seconds=0.5)
        return emulator

    return asyncio.run(scene())


@pytest.mark.parametrize("hangs", [0, 1, 2])
def test_a_hanging_firmware_is_reset_again(
    hangs: int, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reboot(monkeypatch, hangs).resets == hangs + 1
    assert warnings == ["the firmware is silent 0.2 s after a reset: again"] * hangs


def test_it_is_not_tried_for_ever(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="the firmware was silent after each of 3 resets"):
        reboot(monkeypatch, 3)
    assert len(warnings) == 3


@pytest.mark.usefixtures("warnings")
def test_a_guest_that_does_not_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"the guest did not reboot within 0\.5 s"):
        reboot(monkeypatch, 0, at_all=False)
