"""Without a step of entering its checks are red, and no others."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serai.common import linux
from serai.runtime.doctor import limits, request
from serai.runtime.sandbox import bwrap, enter, usher
from tests.support.sandbox import Room, build_filters, open_room, possible_settings
from tests.support.weak_sandbox import CHECKS, UID, Vm, judged, look, red

CAP_CHOWN = 0  # over its own sandbox only


def raise_capabilities(ambient: bool, inheritable: bool) -> Callable[[int], None]:
    """Instead of drop_capabilities: keep one, in some of the sets. capset(2), capabilities(7)."""

    def keep(last: int) -> None:
        libc = ctypes.CDLL(None)
        one, all_ = 1 << CAP_CHOWN, 0xFFFFFFFF
        low, high = all_ & ((1 << min(last + 1, 32)) - 1), (1 << max(last - 31, 0)) - 1
        inherit, held = one if inheritable else 0, one if ambient else 0
        header = (ctypes.c_uint32 * 2)(linux._LINUX_CAPABILITY_VERSION_3, 0)
        # What can be inherited has to be in the bounding set when it becomes so.
        libc.capset(header, (ctypes.c_uint32 * 6)(low, low, inherit, high, high, 0))
        for each in range(last + 1):
            libc.prctl(24, each, 0, 0, 0)  # PR_CAPBSET_DROP
        libc.capset(header, (ctypes.c_uint32 * 6)(held, held, inherit, 0, 0, 0))
        if ambient:
            libc.prctl(47, 2, CAP_CHOWN, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE

    return keep


def without_no_new_privileges(patch: pytest.MonkeyPatch) -> None:
    """Filters and Landlock are bound by the capabilities that are dropped afterwards."""
    drop_, confine = linux.drop_capabilities, linux.confine_tracing
    install, install_asking = linux.Filter.install, usher._install_asking

    def filter_first(last: int) -> None:
        confine()
        baseline, unix_block = build_filters()
        install_asking(unix_block)
        install(linux.Filter(baseline))
        drop_(last)

    patch.setattr(linux, "set_no_new_privileges", lambda: None)
    patch.setattr(linux, "confine_tracing", lambda: None)
    patch.setattr(linux.Filter, "install", lambda _: None)
    patch.setattr(usher, "_install_asking", lambda _: None)
    patch.setattr(linux, "drop_capabilities", filter_first)


def planned(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkey: pytest.MonkeyPatch) -> None:
        original = enter._plan

        def plan(*arguments: Any, **options: Any) -> usher.Plan:
            return original(*arguments, **options)._replace(**changes)

        monkey.setattr(enter, "_plan", plan)

    return patch


def left_out(name: str, of: Any = linux) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkey: monkey.setattr(of, name, lambda *_: None)


def replaced(name: str, new: Any, of: Any = linux) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkey: monkey.setattr(of, name, new)


def limited(kind: int) -> Callable[[pytest.MonkeyPatch], None]:
    """One limit is another one than session.toml's."""

    def patch(monkey: pytest.MonkeyPatch) -> None:
        original = usher._limit
        monkey.setattr(
            usher,
            "_limit",
            lambda each, value: (
                original(each, value - 1 if each == kind and value > 1 else value)
                if each != kind or value > 1
                else original(each, 0)
            ),
        )

    return patch


STEPS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "bounding set": (left_out("drop_capabilities"), {"no capability can come back"}),
    "inheritable": (
        replaced("drop_capabilities", raise_capabilities(False, True)),
        {"a payload inherits no capability"},
    ),
    "ambient": (
        replaced("drop_capabilities", raise_capabilities(True, True)),
        # An ambient capability is always inheritable, too.
        {"a payload holds no capability", "a payload inherits no capability"},
    ),
    "no-new-privs": (without_no_new_privileges, {"a payload gains nothing by executing a program"}),
    "signals": (left_out("default_signals"), {"a payload's signals have their defaults"}),
    "groups": (
        replaced("setgroups", lambda _, real=os.setgroups: real([12345]), os),
        {"a payload is in no other group"},
    ),
    "session": (left_out("setsid", os), {"a payload leads a session without a terminal"}),
    "umask": (
        replaced("umask", lambda _, real=os.umask: real(0), os),
        {"a payload's new files are not world-writable"},
    ),
    "folder": (planned(cwd="/"), {"a payload starts in its home"}),
    "oom": (
        planned(oom_score_adj=b"555"),
        {"payloads have the session's OOM score"},
    ),
    "environment": (
        planned(env={**bwrap.environment(possible_settings(), bwrap.Session(
            "blue", UID, UID, *[Path("/")] * 4)), "SECRET": "x"}),
        {"a payload's environment is its own"},
    ),
    "tracing": (
        left_out("confine_tracing"),
        {"a payload can trace only processes that it started"},
    ),
    "uts namespace": (
        replaced("OTHER_NAMESPACES", linux.OTHER_NAMESPACES & ~0x4000000),
        {"a payload has its own uts namespace", "the host name is that of the settings"},
    ),
    "cgroup namespace": (
        replaced("OTHER_NAMESPACES", linux.OTHER_NAMESPACES & ~0x2000000),
        {"a payload has its own cgroup namespace", "the cgroup's path discloses nothing"},
    ),
    **{
        f"limit {key}": (
            limited(getattr(__import__("resource"), f"RLIMIT_{key}")),
            {f"the limit of {limits.LIMITS[key][0]} is session.toml's"},
        )
        for key in limits.LIMITS
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_without_a_step_its_checks_alone_are_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, wanted = STEPS[name]
    if name == "tracing" and Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        pytest.skip("Yama protects it, too")
    with monkeypatch.context() as patch:
        change(patch)
        found = red(vm, room)
    assert set(found) == wanted, found


def test_a_payload_in_the_vm_s_files_is_red_in_files_and_others(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = linux.OTHER_NAMESPACES & ~0x20000  # CLONE_NEWNS
    monkeypatch.setattr(linux, "OTHER_NAMESPACES", kinds)
    monkeypatch.setattr(usher, "hide", lambda: os.chdir("/proc"))
    found = set(red(vm, room))
    assert {
        "a payload has its own mnt namespace",
        "/ is read-only",
        "/run shows serai only",
    } <= found
    assert {
        "only the session's own home is visible",
        "another session's files are out of reach",
    } <= found
    areas = {check.area for check in CHECKS if check.name in found}
    assert areas <= {"namespaces", "files", "other sessions", "privileges"}, found


def test_a_payload_among_the_vm_s_users_is_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of the user namespace its UID owns that, and so has all rights over the sandbox."""
    kinds = linux.OTHER_NAMESPACES & ~0x10000000
    monkeypatch.setattr(linux, "OTHER_NAMESPACES", kinds)
    monkeypatch.setattr(linux, "drop_capabilities", lambda _: None)
    assert set(red(vm, room)) == {
        "a payload has its own user namespace",
        "a sandbox knows only its own user",
        "no capability can come back",
        "raw sockets are refused",
        "the kernel's switches are out of reach",
    }


def test_a_payload_among_the_vm_s_processes_is_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = linux.join

    def join(pidfd: int, kinds: int) -> None:
        if kinds != linux.PID_NAMESPACE:
            original(pidfd, kinds)

    monkeypatch.setattr(linux, "join", join)
    status = room.run(request.STATUS)
    # Its own /proc does not know it: nothing can be looked at.
    assert "No such file" in status.output
    found = look(vm, room)
    assert "a payload has its own pid namespace" in judged(room, "", found.output)


def test_a_payload_that_is_somebody_else_is_red(vm: Vm) -> None:
    options = ["--uid", "0", "--gid", "0", *bwrap.arguments(possible_settings(), vm.session)]
    with pytest.MonkeyPatch.context() as patch, open_room(vm.session, options=options) as weak:
        planned(uid=0, gid=0)(patch)
        found = red(vm, weak)
    assert set(found) == {
        "a payload runs as its session's user",
        "a sandbox knows only its own user",
    }


@contextmanager
def inherited(path: str) -> Iterator[None]:
    """A descriptor that every child of this process keeps."""
    descriptor = os.open(path, os.O_RDONLY)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100)
    os.close(descriptor)
    os.set_inheritable(high, True)
    try:
        yield
    finally:
        os.close(high)


def test_a_descriptor_that_is_left_open_is_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    # But for copies of the socket to the caller, who waits for its end.
    monkeypatch.setattr(linux, "close_from", lambda _: os.closerange(64, 100))
    with inherited("/dev/null"):
        assert set(red(vm, room)) == {"a payload has three descriptors and no more"}
    with inherited(str(vm.secret.parent)):
        assert set(red(vm, room)) == {
            "a payload has three descriptors and no more",
            "no process or descriptor leads to another session",
        }


def test_a_process_more_in_the_sandbox_is_red(vm: Vm, room: Room) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    entered = room.start(["sleep", "1000"], (null, null, null))
    os.close(null)
    try:
        assert set(red(vm, room)) == {"a sandbox holds the bridge and the payload only"}
    finally:
        os.kill(entered.pid, signal.SIGKILL)
        os.waitid(os.P_PIDFD, entered.pidfd, os.WEXITED)
        os.close(entered.pidfd)
