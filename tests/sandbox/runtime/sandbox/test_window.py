"""What processes inside see of a payload that is on its way in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from serai.common import linux
from tests.support.sandbox import Room, make_session, make_top, open_room, reap

# The tables of mounts and of networks ask for no right to look into a process.
WATCH = """\
import os, sys, time
def tables(pid):
    found = {}
    for name in ("mountinfo", "mounts", "net/unix", "net/dev"):
        try:
            with open(f"/proc/{pid}/{name}") as file: found[name] = [l.split()[0] for l in file]
        except OSError: pass
    return found
def strange(pid):
    return {name for name, lines in tables(pid).items() if lines and lines != own[name]}
own, seen, end = tables("self"), set(), time.monotonic() + 60
print("watching", flush=True)
while time.monotonic() < end and not os.path.exists("enough"):
    for pid in filter(str.isdigit, os.listdir("/proc")): seen |= strange(pid)
print(*sorted(seen))
"""


@pytest.fixture
def room() -> Iterator[Room]:
    with make_top() as top, open_room(make_session(top, "blue", 40097)) as opened:
        yield opened


def watched(room: Room, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that a process inside saw, and that are not the sandbox's."""
    original = linux.join

    def late(pidfd: int, kinds: int) -> None:
        time.sleep(0.2)
        original(pidfd, kinds)

    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    watcher = room.start(["python3", "-c", WATCH], (null, write, null))
    os.close(write)
    with open(read) as file:  # noqa: PTH123
        assert file.readline() == "watching\n"
        monkeypatch.setattr(linux, "join", late)
        for _ in range(3):
            assert reap(room.start(["true"], (null, null, null))) == 0
        (room.session.home / "enough").touch()
        answer = file.readline().split()
    os.close(null)
    assert reap(watcher) == 0
    return answer


def test_the_vms_tables_are_not_seen_while_a_payload_enters(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(room, monkeypatch) == []


def test_a_payload_that_is_born_outside_shows_them(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each one was that joined the namespaces after it had a PID inside."""
    outside = 0x20000 | 0x40000000  # CLONE_NEWNS, CLONE_NEWNET
    monkeypatch.setattr(linux, "CGROUP_NAMESPACE", linux.CGROUP_NAMESPACE | outside)
    assert {"mountinfo", "net/dev"} <= set(watched(room, monkeypatch))
