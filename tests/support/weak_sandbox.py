"""A session's room with something around it to be found by a weak one, and its checks."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from serai.common.checks import Facts, judge
from serai.runtime.doctor import checks, request
from serai.runtime.sandbox import bwrap
from tests.support.sandbox import ROOT, Result, Room, open_room, possible_settings

UID, OTHER_UID = 40021, 40022
MARK = "the neighbour's"
CHECKS = [check for check in checks.CHECKS if check.part in (*request.PARTS, "status")]
Options = list[str]


@dataclasses.dataclass(frozen=True)
class Vm:
    """What there is around the room to be found by one that is weak."""

    top: Path
    session: bwrap.Session
    secret: Path
    port: int
    key: int


def look(vm: Vm, room: Room, **options: Any) -> Result:
    asked = request.request(
        room.session.home, secret=vm.secret, mark=MARK, port=vm.port, key=vm.key
    )
    return room.run(request.argv(asked), **options)


def red(vm: Vm, room: Room, **options: Any) -> dict[str, str]:
    """The checks that fail in the room, and why."""
    status, result = room.run(request.STATUS, **options), look(vm, room, **options)
    assert result.status == 0, result
    # Judged by the settings as it should be, whatever the room is given.
    wanted = request.wanted(possible_settings(), room.session)
    facts = {**request.found(status.output, result.output), "wanted": wanted}
    return {each.check.name: each.detail for each in judge(Facts(facts), {}, CHECKS) if not each.ok}


def judged(room: Room, status: str, output: str) -> set[str]:
    facts = {**request.found(status, output), "wanted": request.wanted(room.settings, room.session)}
    return {each.check.name for each in judge(Facts(facts), {}, CHECKS) if not each.ok}


def with_options(vm: Vm, change: Callable[[Options], Options], **more: Any) -> dict[str, str]:
    options = change(bwrap.arguments(possible_settings(), vm.session))
    with open_room(vm.session, options=options, **more) as weak:
        return red(vm, weak)


@cache
def edited(statement: str) -> tuple[bytes, bytes]:
    """Both filters of this machine, compiled after ``statement`` has edited the rules."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", EDIT.replace("STATEMENT", statement)],
        check=True,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    one, two = (bytes.fromhex(line) for line in done.stdout.decode().split())
    return one, two


EDIT = """
import platform, seccomp as library
from dataclasses import replace
from serai.runtime.sandbox import seccomp
def keep(name, test):
    seccomp.FILTERS[name] = tuple(new for rule in seccomp.FILTERS[name]
                                  for new in [replace(rule, syscalls=tuple(
                                      call for call in rule.syscalls if not test(rule, call)))]
                                  if new.syscalls)
STATEMENT
print(seccomp.build("baseline", platform.machine(), without=globals().get("groups", ())).hex())
print(seccomp.build("unix-block", platform.machine()).hex())
"""
