"""The filters, instruction by instruction: tables of calls that are refused and that are not."""

from __future__ import annotations

import subprocess
from errno import EAFNOSUPPORT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT
from pathlib import Path

import pytest

from serai.runtime.sandbox.seccomp import (
    ARCHITECTURES,
    CLONE_NEW,
    ERROR_QUEUE,
    FILTERS,
    NEWEST,
)
from tests.conftest import ROOT
from tests.support.bpf import run

ALLOW, KILL_PROCESS, ERRNO, ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
HIGH = 1 << 32

# Numbers of asm/unistd_64.h and asm-generic/unistd.h, typed in and not asked of libseccomp.
NUMBERS = {
    "x86_64": {
        "chmod": 90, "fchmod": 91, "creat": 85, "mkdir": 83, "mknod": 133, "openat": 257,
        "mkdirat": 258, "mknodat": 259, "fchmodat": 268, "ustat": 136, "sysfs": 139,
        "io_setup": 206, "mbind": 237, "move_pages": 279,
        "read": 0, "open": 2, "ioctl": 16, "socket": 41, "connect": 42, "socketpair": 53,
        "setsockopt": 54,
        "clone": 56, "fork": 57, "execve": 59, "ptrace": 101, "syslog": 103, "personality": 135,
        "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167,
        "swapoff": 168, "reboot": 169, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "kexec_load": 246, "add_key": 248,
        "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
        "prlimit64": 302, "seccomp": 317, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "io_setup": 0, "mknodat": 33, "mkdirat": 34, "fchmod": 52, "fchmodat": 53, "openat": 56,
        "mbind": 235, "move_pages": 239,
        "read": 63, "ioctl": 29, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51,
        "quotactl": 60, "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104,
        "init_module": 105, "delete_module": 106, "syslog": 116, "ptrace": 117, "reboot": 142,
        "socket": 198, "socketpair": 199, "connect": 203, "add_key": 217, "request_key": 218,
        "keyctl": 219, "clone": 220, "execve": 221, "swapon": 224, "swapoff": 225,
        "perf_event_open": 241, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
        "prlimit64": 261, "seccomp": 277, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
        "setsockopt": 208,
    },
}  # fmt: skip
for _table in NUMBERS.values():
    _table |= {
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "faccessat2": 439,
        "openat2": 437, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
        "fchmodat2": 452, "futex_waitv": 449, "cachestat": 451,
        "listmount": 458, "open_tree_attr": 467,
    }  # fmt: skip

WHOLLY_REFUSED = {
    "mount": "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick"
    " mount_setattr",
    "namespaces": "setns",
    "bpf": "bpf",
    "keyring": "keyctl add_key request_key",
    "perf": "perf_event_open",
    "userfaultfd": "userfaultfd",
    "ptrace": "process_vm_readv process_vm_writev pidfd_getfd kcmp",
    "handles": "name_to_handle_at open_by_handle_at",
    "memory": "mbind move_pages process_madvise",
    "kernel": "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon"
    " swapoff quotactl quotactl_fd acct syslog iopl ioperm sysfs ustat",
}

SET_ID = [mode | high for mode in (0o4755, 0o2755, 0o6000, 0o106644) for high in (0, HIGH)]
O_TMPFILE = 0o20000000
# Where the mode is among the arguments, and what comes before it.
MODES: list[tuple[str, tuple[int, ...]]] = [
    *((call, (0,)) for call in ("chmod", "fchmod", "creat", "mkdir", "mknod")),
    *((call, (0, 0)) for call in ("fchmodat", "fchmodat2", "mkdirat", "mknodat")),
    *(("open", (0, flags)) for flags in (0o100, 0o301, O_TMPFILE | 2, 0o100 | HIGH)),
    *(("openat", (-100, 0, flags)) for flags in (0o100, 0o301, O_TMPFILE | 2, 0o100 | HIGH)),
]

# group of rules, call, arguments, errno (0: the kernel asks)
REFUSED: list[tuple[str, str, tuple[int, ...], int]] = [
    *(
        (group, call, (), EPERM)
        for group, calls in WHOLLY_REFUSED.items()
        for call in calls.split()
    ),
    ("clone3", "clone3", (), ENOSYS),
    ("io_uring", "io_uring_setup", (1,), ENOSYS),
    ("io_uring", "io_uring_enter", (3,), ENOSYS),
    ("io_uring", "io_uring_register", (3,), ENOSYS),
    *(("listener", "seccomp", (1, flags), EPERM) for flags in (8, 9, 0x18, 8 | HIGH)),
    ("clone-parent", "clone", (0x8000 | 17,), EPERM),
    ("clone-parent", "clone", (0x8000 | 17 | HIGH,), EPERM),
    ("aio", "io_setup", (1,), ENOSYS),
    *(("prlimit", "prlimit64", (pid, 9, 1 << 40), EPERM) for pid in (1, 2 | HIGH, -1)),
    *(("set-id", call, (*before, mode), EPERM) for call, before in MODES for mode in SET_ID),
    ("set-id", "openat2", (), ENOSYS),
    *(
        ("devices", call, (*before, kind | 0o644), EPERM)
        for call, before in MODES
        if call.startswith("mknod")
        for kind in (0o020000, 0o060000)
    ),
    *(
        ("protocol", "socket", (family, kind, protocol), EPROTONOSUPPORT)
        for family, kind in ((2, 1), (10, 2), (2, 3))
        # IGMP, DCCP, GRE, ESP, L2TP, SCTP, UDP-Lite, raw, MPTCP, and beyond
        for protocol in (2, 33, 47, 50, 115, 132, 136, 255, 262, 1 << 31, 6 | HIGH, -1)
    ),
    ("newer", "listmount", (), ENOSYS),
    ("newer", "open_tree_attr", (), ENOSYS),
    *(
        ("namespaces", call, (flag | extra,), EPERM)
        for call in ("clone", "unshare")
        for flag in CLONE_NEW
        for extra in (0, 17, HIGH, CLONE_NEW[0] | CLONE_NEW[-1])
    ),
    ("namespaces", "unshare", (0x80,), EPERM),
    *(("ptrace", "ptrace", (how,), EPERM) for how in (16, 0x4206, 16 | HIGH)),
    *(
        ("terminal", "ioctl", (0, cmd | high), EPERM)
        for cmd in (0x5412, 0x541C, 0x5423)
        for high in (0, HIGH, 0xFFFFFFFF << 32)
    ),
    *(
        ("family", call, (family, 1), EAFNOSUPPORT)
        for call in ("socket", "socketpair")
        # AX25, IPX, KEY, PACKET, TIPC, BLUETOOTH, ALG, VSOCK, XDP, the last, and beyond
        for family in (0, 3, 4, 15, 17, 30, 31, 38, 40, 44, 45, 46, 1 << 31, -1)
    ),
    *(("family", "socket", (n | HIGH, 1), EAFNOSUPPORT) for n in (1, 2, 10, 16, 17, 40)),
    *(("netlink", "socket", (16, 3, protocol), EAFNOSUPPORT) for protocol in (4, 9, 12, 15, 16)),
    *(("error-queue", "setsockopt", (3, *option), ENOPROTOOPT) for option in ERROR_QUEUE),
    *(("error-queue", "setsockopt", (3, n | HIGH, 37 | HIGH), ENOPROTOOPT) for n in (1,)),
]

# What programs need, and look-alikes of what is refused.
ALLOWED: list[tuple[str, tuple[int, ...]]] = [
    *((call, ()) for call in ("read", "execve", "connect", "pidfd_open", "faccessat2", "seccomp")),
    # SO_REUSEADDR, SO_TIMESTAMP, TCP_NODELAY, IP_TTL and IPV6_V6ONLY.
    *(("setsockopt", (3, *option)) for option in ((1, 2), (1, 29), (6, 1), (0, 2), (41, 26))),
    *((call, ()) for call in ("personality", "futex_waitv", "cachestat")),
    ("clone", (17,)),
    ("clone", (0x3D0F00,)),  # a thread of glibc's
    ("clone", (0x4111,)),  # posix_spawn: CLONE_VM | CLONE_VFORK | SIGCHLD
    ("clone", (0x80,)),  # an exit signal's bit, not a time namespace
    ("unshare", (0x400,)),  # CLONE_FILES
    ("socket", (2, 1)),
    ("socket", (10, 2)),
    *(("socket", (2, 1, protocol)) for protocol in (0, 1, 6, 17)),
    *(("socket", (10, 1, protocol)) for protocol in (0, 6, 17, 58)),
    *((call, (*before, mode)) for call, before in MODES for mode in (0o644, 0o1777, 0o100755)),
    *((call, (*before, 0o010644)) for call, before in MODES if call.startswith("mknod")),  # a FIFO
    ("openat", (-100, 0, 0, 0o6777)),  # no file is made: what lies there is no mode
    ("open", (0, 2, 0o6777)),
    ("socket", (16, 3, 0)),  # rtnetlink: getifaddrs
    ("prlimit64", (0, 9, 1 << 40)),  # ulimit, setrlimit
    ("prlimit64", (1, 9, 0)),  # only to read
    ("ptrace", (0,)),  # PTRACE_TRACEME
    ("ptrace", (7,)),
    ("ptrace", (0x4200,)),
    ("ioctl", (0, 0x5401)),  # TCGETS
    ("ioctl", (0, 0x5413)),  # TIOCGWINSZ
    ("ioctl", (0x5412, 0x5401)),
    ("socketpair", (1, 1)),
    ("socketpair", (1, 5 | 0x80000)),  # SOCK_SEQPACKET | SOCK_CLOEXEC
]

UNIX_REFUSED: list[tuple[str, str, tuple[int, ...], int]] = [
    *(("unix", "socket", (1 | high, kind), 0) for high in (0, HIGH, 1 << 63) for kind in (1, 2)),
    *(
        ("unix-pair", "socketpair", (1, kind | flags), 0)
        for kind in (2, 3)
        for flags in (0, 0x80000, 0x800, 0x80800, HIGH)
    ),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("filters"))


class Build:
    """Filters made by the distribution's Python, which is the one that has python3-seccomp."""

    CODE = """\
import pathlib, sys
from serai.runtime.sandbox import seccomp
top = pathlib.Path(sys.argv[1])
seccomp.write(top)
for arch in seccomp.ARCHITECTURES:
    for name, rules in seccomp.FILTERS.items():
        for group in {"newer", *(rule.group for rule in rules)}:
            program = seccomp.build(name, arch, without=[group])
            (top / arch / f"{name}-no-{group}").write_bytes(program)
"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(
            ["/usr/bin/python3", "-c", self.CODE, folder],
            check=True,
            env={"PYTHONPATH": str(ROOT / "src")},
        )

    def __call__(self, name: str, arch: str, without: str = "") -> bytes:
        file = f"{name}-no-{without}" if without else f"{name}.bpf"
        return (self.folder / arch / file).read_bytes()


def verdict(build: Build, name: str, arch: str, call: str, *args: int, without: str = "") -> int:
    program = build(name, arch, without)
    return run(program, ARCHITECTURES[arch], NUMBERS[arch][call], args)


def table(name: str) -> list[tuple[str, str, tuple[int, ...], int]]:
    return REFUSED if name == "baseline" else UNIX_REFUSED


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", FILTERS)
def test_refuses(build: Build, name: str, arch: str) -> None:
    for _, call, args, errno in table(name):
        if call in NUMBERS[arch]:
            wanted = ERRNO | errno if errno else ASK
            assert verdict(build, name, arch, call, *args) == wanted, (call, args)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_allows_what_ordinary_programs_do(build: Build, arch: str) -> None:
    for call, args in ALLOWED:
        if call not in NUMBERS[arch]:
            continue
        for name in FILTERS:
            assert verdict(build, name, arch, call, *args) == ALLOW, (name, call, args)
    assert verdict(build, "baseline", arch, "socket", 1, 1) == ALLOW, "the bridge needs it"


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "group"),
    [(name, group) for name in FILTERS for group in sorted({row[0] for row in table(name)})],
)
def test_each_group_of_rules_is_what_refuses(
    build: Build, name: str, group: str, arch: str
) -> None:
    """The counterpart of test_refuses: without the group the same calls pass."""
    rows = [row for row in table(name) if row[0] == group and row[1] in NUMBERS[arch]]
    assert rows
    for _, call, args, _ in rows:
        assert verdict(build, name, arch, call, *args, without=group) == ALLOW, (call, args)


def test_every_group_of_rules_is_tested() -> None:
    for name, rules in FILTERS.items():
        assert {rule.group for rule in rules} <= {row[0] for row in table(name)}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_foreign_abi_kills_the_process(build: Build, name: str, arch: str) -> None:
    # i386, arm, the other of ours, x86_64 with big endian's bit
    for foreign in {0x40000003, 0x40000028, *ARCHITECTURES.values()} - {ARCHITECTURES[arch]}:
        for number in (0, 41, 102, 359, 500):
            assert run(build(name, arch), foreign, number) == KILL_PROCESS, (hex(foreign), number)


@pytest.mark.parametrize("name", FILTERS)
def test_x32_kills_the_process(build: Build, name: str) -> None:
    for number in (0, 41, 425, 512, 547):
        x32 = 0x40000000 | number
        assert run(build(name, "x86_64"), ARCHITECTURES["x86_64"], x32) == KILL_PROCESS, number


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_call_that_its_tracer_cancels_is_none(build: Build, name: str, arch: str) -> None:
    """Not another ABI's, though its number has all bits."""
    for number in (0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFF000):
        assert run(build(name, arch), ARCHITECTURES[arch], number) == ERRNO | ENOSYS
    x32 = run(build(name, arch), ARCHITECTURES[arch], 0xFFFFEFFF)
    assert x32 == {"x86_64": KILL_PROCESS, "aarch64": x32}[arch]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_newer_than_the_filter_does_not_exist(build: Build, arch: str) -> None:
    program = build("baseline", arch)
    assert run(program, ARCHITECTURES[arch], NEWEST) == ALLOW
    for number in (NEWEST + 1, 500, 1000, 0x3FFFFFFF):
        assert run(program, ARCHITECTURES[arch], number) == ERRNO | ENOSYS


def test_a_filter_is_the_same_bytes_every_time(build: Build, tmp_path: Path) -> None:
    again = Build(tmp_path)
    for arch in ARCHITECTURES:
        for name in FILTERS:
            assert again(name, arch) == build(name, arch)
            assert len(build(name, arch)) % 8 == 0
            assert len(build(name, arch)) // 8 <= 4096, "the kernel's BPF_MAXINSNS"
    assert len(list(tmp_path.rglob("*.*"))) == 4, "no temporary file is left"
