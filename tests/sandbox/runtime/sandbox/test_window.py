"""What processes inside see of a payload that is on its way in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serai.common import linux, proc
from serai.runtime.sandbox import usher
from tests.conftest import ROOT
from tests.support.sandbox import Room, make_session, make_top, open_room, reap
from tests.support.watching import Watcher

# The table of mounts asks for no right to look into a process.
LOOK = """\
import os
def table(pid):
    try:
        with open(f"/proc/{pid}/mountinfo") as file: return [line.split()[4] for line in file]
    except OSError: return own
own = []
own = table("self")
def look():
    tables = map(table, filter(str.isdigit, os.listdir("/proc")))
    return {place for places in tables if places != own for place in places}
"""


@pytest.fixture
def room() -> Iterator[Room]:
    with make_top() as top, open_room(make_session(top, "blue", 40097)) as opened:
        yield opened


def watched(room: Room, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The mount points that a process inside saw, and that are not the sandbox's."""
    watcher, original = Watcher(room, LOOK), linux.join

    def late(pidfd: int, kinds: int) -> None:
        watcher.looked()
        original(pidfd, kinds)

    monkeypatch.setattr(linux, "join", late)
    null = os.open("/dev/null", os.O_RDWR)
    assert reap(room.start(["true"], (null, null, null))) == 0
    os.close(null)
    return watcher.seen()


def test_the_vms_mounts_are_not_seen_while_a_payload_enters(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [mount.place for mount in proc.mounts_of()]
    of_proc = {place.removeprefix("/proc") or "/" for place in places if place.startswith("/proc")}
    assert watched(room, monkeypatch) <= of_proc


def test_they_are_seen_if_the_usher_does_not_hide_them(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usher, "hide", lambda: os.chdir("/proc"))
    assert "/proc" in watched(room, monkeypatch)


def test_the_daemon_enters_from_a_network_of_its_own() -> None:
    unit = (ROOT / "src/serai/install/units/serai-sessiond.service").read_text()
    assert "\nPrivateNetwork=yes\n" in unit
