"""The containment checks: green in a whole sandbox, and red, alone, where one wall is missing.

Each weakening is a real one: another option of bubblewrap, another filter, a step of entering left
out. Where one thing follows from another (who shares the VM's network reaches its services), the
set of checks that must go red has more than one member, and never one too many.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from serai.runtime import enter, namespaces, sandbox, usher
from serai.runtime.doctor import calls, core, inside, reach, request
from tests.runtime.room import (
    ROOT,
    Result,
    Room,
    build_filters,
    make_session,
    make_top,
    open_room,
    possible_policy,
)

UID, OTHER_UID = 40021, 40022
MARK = "the neighbour's"
assert reach.files, "importing it adds its checks"
CHECKS = [check for check in core.CHECKS if check.part in (*request.PARTS, "status")]
Options = list[str]


@dataclasses.dataclass(frozen=True)
class Vm:
    """What there is around the room to be found by one that is weak."""

    top: Path
    session: sandbox.Session
    secret: Path
    port: int
    key: int


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5E7B0000 + os.getpid() % 0xFFFF
    with make_top() as top, socket.create_server(("127.0.0.1", 0)) as server:
        session = make_session(top, "blue", UID)
        other = make_session(top, "other", OTHER_UID)
        other.home.chmod(0o777)
        secret = other.home / "secret"
        secret.write_text(MARK)
        secret.chmod(0o666)
        segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
        try:
            yield Vm(top, session, secret, server.getsockname()[1], key)
        finally:
            libc.shmctl(segment, 0, None)  # IPC_RMID


@pytest.fixture(scope="module")
def room(vm: Vm) -> Iterator[Room]:
    with open_room(vm.session) as opened:
        yield opened


def look(vm: Vm, room: Room, **options: Any) -> Result:
    asked = request.request(
        room.session.home, secret=vm.secret, mark=MARK, port=vm.port, key=vm.key
    )
    return room.run(request.argv(asked), **options)


def red(vm: Vm, room: Room, **options: Any) -> dict[str, str]:
    """The checks that fail in the room, and why."""
    status, result = room.run(request.STATUS, **options), look(vm, room, **options)
    assert result.status == 0, result
    # Judged by the policy as it should be, whatever the room is given.
    wanted = request.wanted(possible_policy(), room.session)
    facts = {**request.found(status.output, result.output), "wanted": wanted}
    return {each.check.name: each.detail for each in core.judge(facts, {}, CHECKS) if not each.ok}


def test_a_whole_sandbox_is_all_green(vm: Vm, room: Room) -> None:
    assert red(vm, room) == {}


def with_options(vm: Vm, change: Callable[[Options], Options], **more: Any) -> dict[str, str]:
    options = change(sandbox.arguments(possible_policy(), vm.session))
    with open_room(vm.session, options=options, **more) as weak:
        return red(vm, weak)


# --- filters


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
from serai.runtime import seccomp
def keep(name, test):
    seccomp.FILTERS[name] = tuple(new for rule in seccomp.FILTERS[name]
                                  for new in [replace(rule, syscalls=tuple(
                                      call for call in rule.syscalls if not test(rule, call)))]
                                  if new.syscalls)
STATEMENT
print(seccomp.build("baseline", platform.machine(), without=globals().get("groups", ())).hex())
print(seccomp.build("unix-block", platform.machine()).hex())
"""


def leave_out(*names: str, group: str = "", where: str = "baseline") -> str:
    """Code that takes system calls out of one group of rules, or of all."""
    return (
        f"keep({where!r}, lambda rule, call: call in {names!r} "
        f"and rule.group in ({group!r} or rule.group,))"
    )


# What to take out, to the check that goes red. The whole group, then.
FILTERS: dict[str, str] = {
    "mounting is refused": "groups = ['mount']",
    "unshare makes no namespace": leave_out("unshare", group="namespaces"),
    "clone makes no namespace": leave_out("clone", group="namespaces"),
    "setns is refused": leave_out("setns"),
    "clone3 does not exist": "groups = ['clone3']",
    "system calls that are newer than the filter do not exist": "groups = ['newer']",
    "io_uring is refused": "groups = ['io_uring']",
    "bpf is refused": "groups = ['bpf']",
    "kernel keyrings are refused": "groups = ['keyring']",
    "perf_event_open is refused": "groups = ['perf']",
    "userfaultfd is refused": "groups = ['userfaultfd']",
    "attaching to a process is refused": leave_out("ptrace"),
    "other processes' memory and descriptors are refused": leave_out(
        "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"
    ),
    "typing into a terminal is refused": "groups = ['terminal']",
    "file handles are refused": "groups = ['handles']",
    "loading kernel modules is refused": leave_out("init_module", "finit_module", "delete_module"),
    "restarting the VM or its kernel is refused": leave_out(
        "reboot", "kexec_load", "kexec_file_load"
    ),
    "the VM's swap, quotas and accounting are refused": leave_out(
        "swapon", "swapoff", "quotactl", "quotactl_fd", "acct"
    ),
    "the kernel's log is refused": leave_out("syslog", "lookup_dcookie"),
    "setting the clock is refused": leave_out("settimeofday", "clock_settime"),
    "ports and segments of the processor are refused": leave_out("iopl", "ioperm", "modify_ldt"),
    "of netlink there is routing only": "groups = ['netlink']",
    # Only families of 32 bits and less are compared: as the kernel sees them.
    "a socket's family cannot hide in high bits": (
        "seccomp.FILTERS['baseline'] = tuple("
        "replace(rule, args=(seccomp.low(0, 40),)) if rule.args and rule.args[0].test == 'gt' "
        "and rule.group == 'family' else rule for rule in seccomp.FILTERS['baseline']) + tuple("
        "seccomp.Rule('family', ('socket', 'socketpair'), (seccomp.Arg(0, 'eq', family),), 97) "
        "for family in (17, 38, 40))\n"
        "keep('baseline', lambda rule, call: rule.args == (seccomp.low(0, 40),))"
    ),
    "only IP, Unix and routing sockets exist": (
        "seccomp.FILTERS['baseline'] = tuple(rule for rule in seccomp.FILTERS['baseline'] "
        "if rule.group != 'family') + (seccomp.Rule('family', ('socket', 'socketpair'), "
        "(seccomp.Arg(0, 'gt', 1 << 31),), 97),)"
    ),
    "payloads make no Unix sockets": leave_out("socket", where="unix-block"),
    "payloads make no Unix datagram pairs": leave_out("socketpair", where="unix-block"),
    "another ABI's system calls kill the process": "library.KILL_PROCESS = library.ALLOW",
}


@pytest.mark.parametrize("name", FILTERS)
def test_without_a_rule_its_check_alone_is_red(vm: Vm, room: Room, name: str) -> None:
    assert set(red(vm, room, filters=edited(FILTERS[name]))) == {name}


SINGLE = [
    (group.name, call.name)
    for group in calls.GROUPS
    for call in group.calls
    if " " not in call.name and len(group.calls) > 1 and call.number(os.uname().machine)
    and not call.name.startswith(("TIOC", "PTRACE"))
]  # fmt: skip


@pytest.mark.parametrize(("group", "call"), SINGLE)
def test_a_single_call_that_is_let_through_is_named(
    vm: Vm, room: Room, group: str, call: str
) -> None:
    found = red(vm, room, filters=edited(leave_out(call)))
    assert set(found) == {group}
    assert found[group] == f"{call}: ENOSYS"


# --- the sandbox's options


def drop(*options: str) -> Callable[[Options], Options]:
    """Leave out an option with its arguments, which are consecutive."""

    def change(given: Options) -> Options:
        place = next(
            at for at in range(len(given)) if tuple(given[at : at + len(options)]) == options
        )
        return given[:place] + given[place + len(options) :]

    return change


def swap(old: Sequence[str], new: Sequence[str]) -> Callable[[Options], Options]:
    """Put other options in the place of some."""

    def change(given: Options) -> Options:
        place = next(
            at for at in range(len(given)) if tuple(given[at : at + len(old)]) == tuple(old)
        )
        return [*given[:place], *new, *given[place + len(old) :]]

    return change


def add(*options: str) -> Callable[[Options], Options]:
    """Before the root becomes read-only."""
    return swap(("--remount-ro", "/"), (*options, "--remount-ro", "/"))


OPTIONS: dict[str, tuple[Callable[[Options], Options], set[str]]] = {
    "VM's ipc": (
        drop("--unshare-ipc"),
        {"a payload has its own ipc namespace", "the VM's shared memory is out of reach"},
    ),
    "VM's name": (
        lambda given: drop("--unshare-uts")(drop("--hostname", "serai")(given)),
        {"a payload has its own uts namespace", "the host name is the policy's"},
    ),
    "another name": (
        swap(("--hostname", "serai"), ("--hostname", "other")),
        {"the host name is the policy's"},
    ),
    "VM's cgroup": (
        drop("--unshare-cgroup"),
        {"a payload has its own cgroup namespace", "the cgroup's path tells nothing"},
    ),
    "root writable": (drop("--remount-ro", "/"), {"/ is read-only"}),
    "dev writable": (drop("--remount-ro", "/dev"), {"/dev is read-only"}),
    **{
        f"{path} writable": (
            swap(("--ro-bind-try", path, path), ("--bind", path, path)),
            {f"{path} is read-only"},
        )
        for path in ("/usr", "/etc", "/sys/devices/system/cpu")
    },
    "gate writable": (
        swap(("--ro-bind", "{gate}", "/run/serai/gate"), ("--bind", "{gate}", "/run/serai/gate")),
        {"/run/serai/gate is read-only"},
    ),
    "users writable": (
        swap(("--ro-bind", "{users}"), ("--bind", "{users}")),
        {"/run/serai/users is read-only"},
    ),
    "hints writable": (
        swap(("--ro-bind", "{hints}"), ("--bind", "{hints}")),
        {"/run/serai/hints is read-only"},
    ),
    "hosts writable": (
        swap(("--ro-bind", "{hosts}"), ("--bind", "{hosts}")),
        {"/etc/hosts is read-only"},
    ),
    "VM's hosts": (
        drop("--ro-bind", "{hosts}", "/etc/hosts"),
        {"the hosts file is the session's own"},
    ),
    **{
        f"VM's {path}": (add("--bind", "{full}", path), {f"{path} is the session's own"})
        for path in ("/tmp", "/var/tmp", "/home", "/root")
    },
    "VM's shm": (
        swap(("--remount-ro", "/dev"), ("--bind", "{full}", "/dev/shm", "--remount-ro", "/dev")),
        # What lies there is found as a file in /dev as well.
        {"/dev/shm is the session's own", "devices are the harmless ones"},
    ),
    "read-only tmp": (add("--remount-ro", "/tmp"), {"/tmp is the session's own"}),
    "more in run": (add("--dir", "/run/other"), {"/run shows serai only"}),
    "more in run/serai": (
        add("--dir", "/run/serai/sessions"),
        {"/run/serai shows gate and hints and users only"},
    ),
    "more in sys": (add("--dir", "/sys/kernel"), {"/sys shows devices only"}),
    "more in root": (add("--dir", "/mnt"), {"/ shows what a session needs only"}),
    "read-only home": (
        swap(("--bind", "{home}", "{home}"), ("--ro-bind", "{home}", "{home}")),
        {"a session can write its home"},
    ),
    "one more device": (
        swap(
            ("--remount-ro", "/dev"),
            ("--dev-bind", "/dev/null", "/dev/kmsg", "--remount-ro", "/dev"),
        ),
        {"devices are the harmless ones"},
    ),
    "socket": (
        add("--dir", "/run/serai", "--ro-bind", "{folder}", "/run/serai/users/../gate"),
        {"no Unix socket of the VM is visible"},
    ),
    "secret": (
        add("--ro-bind", "{open}", "/etc/shadow"),
        {"the VM's secrets are unreadable", "nothing else is mounted"},
    ),
    "switch": (
        add("--bind", "{open}", "/proc/sys/vm/drop_caches"),
        {"the kernel's switches are out of reach", "nothing else is mounted"},
    ),
    "mount": (add("--ro-bind", "/srv", "/var/lib/dpkg/info"), {"nothing else is mounted"}),
    "device mount": (
        swap(("--bind", "{home}", "{home}"), ("--dev-bind", "{home}", "{home}")),
        {"no mount lets set-user-ID programs or devices work"},
    ),
    "other's name": (add("--dir", "{other}"), {"only the own home is there"}),
    "other's home": (
        add("--ro-bind", "{other}", "{other}"),
        {
            "only the own home is there",
            "another session's files are out of reach",
            "nothing else is mounted",
            "no process or descriptor leads to another session",
        },
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_without_a_wall_its_checks_alone_are_red(vm: Vm, tmp_path: Path, name: str) -> None:
    change, wanted = OPTIONS[name]
    full = vm.top / "full"
    full.mkdir(exist_ok=True)
    full.chmod(0o777)
    (full / "of-the-vm").touch()
    opened = vm.top / "open"
    opened.write_text("")
    opened.chmod(0o666)
    folder = vm.top / "sockets"
    folder.mkdir(exist_ok=True)
    places = {
        "gate": vm.session.gate,
        "users": vm.session.state / "users",
        "hints": vm.session.state / "hints",
        "hosts": vm.session.state / "hosts",
        "home": vm.session.home,
        "other": vm.secret.parent,
        "full": full,
        "open": opened,
        "folder": folder,
    }
    marked = {str(path): f"{{{key}}}" for key, path in places.items()}
    real = {mark: path for path, mark in marked.items()}

    def changed(given: Options) -> Options:
        return [real.get(each, each) for each in change([marked.get(each, each) for each in given])]

    with socket.socket(socket.AF_UNIX) as server:
        (folder / "service.sock").unlink(missing_ok=True)
        server.bind(str(folder / "service.sock"))
        found = with_options(vm, changed)
    assert set(found) == wanted, found


def test_in_the_vm_s_network_all_of_the_network_is_red(vm: Vm) -> None:
    found = set(with_options(vm, drop("--unshare-net")))
    must = {"a payload has its own net namespace", "the VM's own services are out of reach"}
    assert must | {"there is no interface but the loopback", "only the bridge listens"} <= found
    # What the build host's own network gives an answer to differs.
    network = {check.name for check in CHECKS if check.part == "network"}
    assert found <= network | {"a payload has its own net namespace"}


def test_users_of_others_are_seen(vm: Vm, room: Room) -> None:
    passwd = vm.session.state / "users/passwd"
    before = passwd.read_text()
    passwd.write_text(before + "other:x:1:1::/:/bin/sh\n")
    try:
        assert set(red(vm, room)) == {"the list of users names the session's own"}
    finally:
        passwd.write_text(before)


# --- the steps of entering

CAP_CHOWN = 0  # over its own sandbox only


def raise_capabilities(ambient: bool, inheritable: bool) -> Callable[[int], None]:
    """Instead of drop_capabilities: keep one, in some of the sets. capset(2), capabilities(7)."""

    def keep(last: int) -> None:
        libc = ctypes.CDLL(None)
        one, all_ = 1 << CAP_CHOWN, 0xFFFFFFFF
        low, high = all_ & ((1 << min(last + 1, 32)) - 1), (1 << max(last - 31, 0)) - 1
        inherit, held = one if inheritable else 0, one if ambient else 0
        header = (ctypes.c_uint32 * 2)(namespaces._LINUX_CAPABILITY_VERSION_3, 0)
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
    drop_, confine = namespaces.drop_capabilities, namespaces.confine_tracing
    install = namespaces.Filter.install

    def filter_first(last: int) -> None:
        confine()
        for program in build_filters():
            install(namespaces.Filter(program))
        drop_(last)

    patch.setattr(namespaces, "set_no_new_privileges", lambda: None)
    patch.setattr(namespaces, "confine_tracing", lambda: None)
    patch.setattr(namespaces.Filter, "install", lambda _: None)
    patch.setattr(namespaces, "drop_capabilities", filter_first)


def planned(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkey: pytest.MonkeyPatch) -> None:
        original = enter._plan

        def plan(*arguments: Any, **options: Any) -> usher.Plan:
            return original(*arguments, **options)._replace(**changes)

        monkey.setattr(enter, "_plan", plan)

    return patch


def left_out(name: str, of: Any = namespaces) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkey: monkey.setattr(of, name, lambda *_: None)


def replaced(name: str, new: Any, of: Any = namespaces) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkey: monkey.setattr(of, name, new)


def limited(kind: int) -> Callable[[pytest.MonkeyPatch], None]:
    """One limit is another one than the policy's."""

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
    "signals": (left_out("default_signals"), {"a payload's signals are as they should be"}),
    "groups": (
        replaced("setgroups", lambda _, real=os.setgroups: real([12345]), os),
        {"a payload is in no other group"},
    ),
    "session": (left_out("setsid", os), {"a payload leads a session without a terminal"}),
    "umask": (
        replaced("umask", lambda _, real=os.umask: real(0), os),
        {"a payload's files are not open to everybody to write"},
    ),
    "folder": (planned(cwd="/"), {"a payload starts in its home"}),
    "oom": (
        planned(oom_score_adj=b"555"),
        {"a payload is killed for want of memory as its session is"},
    ),
    "environment": (
        planned(env={**sandbox.environment(possible_policy(), sandbox.Session(
            "blue", UID, UID, Path("/"), Path("/"), Path("/"))), "SECRET": "x"}),
        {"a payload's environment is its own"},
    ),
    "tracing": (left_out("confine_tracing"), {"a payload looks into no process it did not start"}),
    "uts namespace": (
        replaced("OTHER_NAMESPACES", namespaces.OTHER_NAMESPACES & ~0x4000000),
        {"a payload has its own uts namespace", "the host name is the policy's"},
    ),
    "cgroup namespace": (
        replaced("OTHER_NAMESPACES", namespaces.OTHER_NAMESPACES & ~0x2000000),
        {"a payload has its own cgroup namespace", "the cgroup's path tells nothing"},
    ),
    **{
        f"limit {key}": (
            limited(getattr(__import__("resource"), f"RLIMIT_{key}")),
            {f"the limit of {inside.LIMITS[key][0]} is the policy's"},
        )
        for key in inside.LIMITS
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
    kinds = namespaces.OTHER_NAMESPACES & ~0x20000  # CLONE_NEWNS
    monkeypatch.setattr(namespaces, "OTHER_NAMESPACES", kinds)
    found = set(red(vm, room))
    assert {
        "a payload has its own mnt namespace",
        "/ is read-only",
        "/run shows serai only",
    } <= found
    assert {"only the own home is there", "another session's files are out of reach"} <= found
    areas = {check.area for check in CHECKS if check.name in found}
    assert areas <= {"namespaces", "files", "other sessions", "privileges"}, found


def test_a_payload_among_the_vm_s_users_is_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of the user namespace its UID owns that, and so has all rights over the sandbox."""
    kinds = namespaces.OTHER_NAMESPACES & ~0x10000000
    monkeypatch.setattr(namespaces, "OTHER_NAMESPACES", kinds)
    monkeypatch.setattr(namespaces, "drop_capabilities", lambda _: None)
    assert set(red(vm, room)) == {
        "a payload has its own user namespace",
        "a sandbox knows no user but its own",
        "no capability can come back",
        "raw sockets are refused",
        "the kernel's switches are out of reach",
    }


def test_a_payload_among_the_vm_s_processes_is_red(
    vm: Vm, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = namespaces.join

    def join(pidfd: int, kinds: int) -> None:
        if kinds != namespaces.PID_NAMESPACE:
            original(pidfd, kinds)

    monkeypatch.setattr(namespaces, "join", join)
    status = room.run(request.STATUS)
    # Its own /proc does not know it: nothing can be looked at.
    assert "No such file" in status.output
    found = look(vm, room)
    assert "a payload has its own pid namespace" in judged(room, "", found.output)


def judged(room: Room, status: str, output: str) -> set[str]:
    facts = {**request.found(status, output), "wanted": request.wanted(room.policy, room.session)}
    return {each.check.name for each in core.judge(facts, {}, CHECKS) if not each.ok}


def test_a_payload_that_is_somebody_else_is_red(vm: Vm) -> None:
    options = ["--uid", "0", "--gid", "0", *sandbox.arguments(possible_policy(), vm.session)]
    with pytest.MonkeyPatch.context() as patch, open_room(vm.session, options=options) as weak:
        planned(uid=0, gid=0)(patch)
        found = red(vm, weak)
    assert set(found) == {
        "a payload runs as its session's user",
        "a sandbox knows no user but its own",
    }


def test_one_filter_with_the_rules_of_both_is_one_too_few(vm: Vm, room: Room) -> None:
    both = edited(
        "seccomp.FILTERS['baseline'] = seccomp.FILTERS['unix-block'] + seccomp.FILTERS['baseline']"
    )
    assert set(red(vm, room, filters=both[:1])) == {"a payload has both filters"}


def test_a_bridge_without_a_filter_is_red(vm: Vm) -> None:
    with open_room(vm.session, filters=(b"", build_filters()[1])) as weak:
        found = red(vm, weak, filters=build_filters()[1:])
        assert "the bridge has the baseline filter" in found
        both = edited(
            "seccomp.FILTERS['baseline'] = "
            "seccomp.FILTERS['unix-block'] + seccomp.FILTERS['baseline']"
        )
        assert set(red(vm, weak, filters=both[:1])) == {"the bridge has the baseline filter"}


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
    monkeypatch.setattr(namespaces, "close_from", lambda _: None)
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


# --- the network, changed from outside


@contextmanager
def in_network(room: Room, *commands: str) -> Iterator[None]:
    """Commands of ip(8) in the sandbox's network namespace, undone by the last ones ('-…')."""
    enter_ = ["nsenter", f"--target={room.target.pid}", "--net", "--"]

    def carry_out(command: str) -> None:
        subprocess.run([*enter_, *command.lstrip("-").split()], check=True)

    for command in commands:
        if not command.startswith("-"):
            carry_out(command)
    try:
        yield
    finally:
        for command in commands:
            if command.startswith("-"):
                carry_out(command)


def local(address: str) -> tuple[str, str]:
    return (f"ip route add local {address} dev lo", f"-ip route del local {address} dev lo")


NETWORK: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "tcp": (local("192.0.2.1/32"), {"TCP past the gate goes nowhere"}),
    "udp": (local("198.51.100.1/32"), {"UDP past the gate goes nowhere"}),
    "metadata": (
        local("169.254.169.254/32"),
        {"a cloud's metadata service is out of reach"},
    ),
    "tcp6": (
        (
            "ip -6 route add local 2001:db8::1/128 dev lo",
            "-ip -6 route del local 2001:db8::1/128 dev lo",
        ),
        {"IPv6 past the gate goes nowhere"},
    ),
    "route": (
        ("ip route add 203.0.113.0/24 dev lo", "-ip route del 203.0.113.0/24 dev lo"),
        {"there is no route"},
    ),
    "interface": (
        ("ip link add more type bridge", "-ip link del more"),
        {"there is no interface but the loopback"},
    ),
}


@pytest.mark.parametrize("name", NETWORK)
def test_a_way_out_is_red(vm: Vm, room: Room, name: str) -> None:
    commands, wanted = NETWORK[name]
    with in_network(room, *commands):
        found = red(vm, room)
    assert set(found) == wanted, found


SERVER = """
import os, socket, sys
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
os.write(1, b"x")
while True:
    servers[0].accept()
"""


@contextmanager
def served(room: Room, port: int) -> Iterator[None]:
    """Something in the network namespace, but not of the session, listens on a port."""
    argv = ["nsenter", f"--target={room.target.pid}", "--net", "--", sys.executable, "-c", SERVER]
    with subprocess.Popen([*argv, str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        try:
            yield
        finally:
            process.kill()


def test_another_service_is_red(vm: Vm, room: Room) -> None:
    with served(room, 4444):
        assert set(red(vm, room)) == {"only the bridge listens"}
    with served(room, vm.port):
        assert set(red(vm, room)) == {
            "only the bridge listens",
            "the VM's own services are out of reach",
        }


def test_a_name_that_is_resolved_is_red(vm: Vm, room: Room) -> None:
    hosts = vm.session.state / "hosts"
    before = hosts.read_text()
    hosts.write_text(before + "192.0.2.9 example.com\n")
    try:
        assert set(red(vm, room)) == {
            "names are looked up by the gate alone",
            "the hosts file is the session's own",
        }
    finally:
        hosts.write_text(before)


def test_a_bridge_that_does_not_answer_is_red(vm: Vm, room: Room) -> None:
    """A connection limit in the sandbox's network: the port is there, and nobody gets through."""
    facts = request.found(room.run(request.STATUS).output, look(vm, room).output)
    facts["wanted"] = request.wanted(room.policy, room.session)
    facts["network"]["bridge"] = ["ECONNREFUSED", ""]
    found = {each.check.name for each in core.judge(facts, {}, CHECKS) if not each.ok}
    assert found == {"both ports of the bridge answer"}


def test_every_check_goes_red_in_some_test() -> None:
    """The tables name every check; what a function's own test sees is listed here."""
    seen = set(FILTERS)
    for table in (OPTIONS, STEPS, NETWORK):
        for _, names in table.values():
            seen |= names
    own = Path(__file__).read_text()
    assert not [check.name for check in CHECKS if check.name not in seen | {
        name for name in (check.name for check in CHECKS) if f'"{name}"' in own}]  # fmt: skip
