"""The two seccomp filters: rules as data, compiled by libseccomp for every architecture.

``python3 -m serai.runtime.sandbox.seccomp OUTDIR`` writes
``OUTDIR/<arch>/{baseline,unix-block}.bpf``, the
same bytes whichever machine it runs on. Each file is an array of ``struct sock_filter``, which is
what ``bwrap --seccomp`` and seccomp(2) take.

The filters allow by default and refuse what is named: they stand beside namespaces, empty
capability sets and no-new-privs, and make the kernel's attack surface smaller. Three things are
refused wholesale, however: other ABIs than the machine's own, address families that are not
listed, and system calls that are newer than the newest we have looked at.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from pathlib import Path

from serai.common import files

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
NEWEST = 456
"""futex_requeue of Linux 6.7. Numbers above 402 are the same on every architecture."""

LOW_32 = 0xFFFFFFFF
"""The part of an argument that the kernel looks at where a parameter is an int."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_DGRAM, SOCK_RAW, SOCK_TYPE_MASK = 2, 3, 0xF
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
CLONE_NEWTIME = 0x80  # in clone(2) this bit belongs to the exit signal
CLONE_NEW = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""


@dataclass(frozen=True)
class Arg:
    """A condition on argument ``index``: ``eq`` or ``gt`` on all 64 bits, ``masked`` on some."""

    index: int
    test: str
    value: int
    mask: int = 0


@dataclass(frozen=True)
class Rule:
    """Refuse ``syscalls`` with ``errno`` if all ``args`` match; ``group`` names the reason."""

    group: str
    syscalls: tuple[str, ...]
    args: tuple[Arg, ...] = ()
    errno: int = EPERM


def low(index: int, value: int) -> Arg:
    """Argument ``index`` as the kernel sees an int: its high 32 bits are ignored."""
    return Arg(index, "masked", value, LOW_32)


def bit(index: int, value: int) -> Arg:
    """All bits of ``value`` are set in argument ``index``."""
    return Arg(index, "masked", value, value)


def _families() -> Iterable[Rule]:
    """Everything but IPv4, IPv6, Unix sockets and rtnetlink (which getifaddrs(3) needs).

    Compared on all 64 bits, so that a family with high bits set is refused, too.
    """
    allowed = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
    unlisted = [Arg(0, "eq", family) for family in range(max(allowed)) if family not in allowed]
    for condition in (*unlisted, Arg(0, "gt", max(allowed))):
        yield Rule("family", ("socket", "socketpair"), (condition,), EAFNOSUPPORT)
    netlink_other_than_route = (Arg(0, "eq", AF_NETLINK), Arg(2, "gt", 0))
    yield Rule("netlink", ("socket",), netlink_other_than_route, EAFNOSUPPORT)


MOUNT = (
    *("mount", "umount2", "pivot_root", "chroot"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
)
KERNEL = (
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "syslog", "lookup_dcookie"),
    *("settimeofday", "clock_settime", "clock_settime64", "iopl", "ioperm", "modify_ldt"),
)

BASELINE: tuple[Rule, ...] = (
    Rule("mount", MOUNT),
    Rule("namespaces", ("setns",)),
    *(Rule("namespaces", ("clone", "unshare"), (bit(0, flag),)) for flag in CLONE_NEW),
    Rule("namespaces", ("unshare",), (bit(0, CLONE_NEWTIME),)),
    # Its flags lie in memory, where a filter can't look; libc falls back to clone(2) on ENOSYS.
    Rule("clone3", ("clone3",), errno=ENOSYS),
    # A ring does socket(2), openat(2) and so on past every filter.
    Rule("io_uring", ("io_uring_setup", "io_uring_enter", "io_uring_register")),
    Rule("bpf", ("bpf",)),
    Rule("keyring", ("keyctl", "add_key", "request_key")),
    Rule("perf", ("perf_event_open",)),
    Rule("userfaultfd", ("userfaultfd",)),
    # gdb and strace start their tracee, and it asks to be traced: that stays possible. Attaching to
    # a process that did not ask would reach the bridge, which has one filter less.
    *(Rule("ptrace", ("ptrace",), (low(0, how),)) for how in (PTRACE_ATTACH, PTRACE_SEIZE)),
    Rule("ptrace", ("process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp")),
    *(Rule("terminal", ("ioctl",), (low(1, cmd),)) for cmd in (TIOCSTI, TIOCLINUX, TIOCSETD)),
    Rule("handles", ("name_to_handle_at", "open_by_handle_at")),
    Rule("kernel", KERNEL),
    *_families(),
)

UNIX_BLOCK: tuple[Rule, ...] = (
    Rule("unix", ("socket",), (low(0, AF_UNIX),)),
    # A pair is harmless, but its datagram variety (SOCK_RAW is the same thing for Unix sockets)
    # can be connected to, or send to, any other socket later. unix(7)
    *(
        Rule("unix-pair", ("socketpair",), (Arg(1, "masked", kind, SOCK_TYPE_MASK),))
        for kind in (SOCK_DGRAM, SOCK_RAW)
    ),
)

FILTERS = {"baseline": BASELINE, "unix-block": UNIX_BLOCK}


def build(name: str, arch: str, *, without: Collection[str] = ()) -> bytes:
    """The filter ``name`` for ``arch``. ``without`` leaves groups of rules out, for tests.

    Raises KeyError for an unknown name or architecture. Needs python3-seccomp.
    """
    rules = [rule for rule in FILTERS[name] if rule.group not in without]
    program = _compile(rules, arch)
    if name == "baseline" and "newer" not in without:
        program = _refuse_newer(arch) + program
    return program


def _compile(rules: Iterable[Rule], arch: str) -> bytes:
    import seccomp  # noqa: PLC0415  # a distribution package that only this function needs

    tests = {"eq": seccomp.EQ, "gt": seccomp.GT}
    result = seccomp.SyscallFilter(seccomp.ALLOW)
    # Also what x32 gets: libseccomp takes it for another architecture.
    result.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    if not result.exist_arch(seccomp.Arch(arch)):
        result.add_arch(seccomp.Arch(arch))
        result.remove_arch(seccomp.Arch())
    for rule in rules:
        conditions = [
            seccomp.Arg(arg.index, seccomp.MASKED_EQ, arg.mask, arg.value)
            if arg.test == "masked"
            else seccomp.Arg(arg.index, tests[arg.test], arg.value)
            for arg in rule.args
        ]
        for syscall in rule.syscalls:
            result.add_rule(seccomp.ERRNO(rule.errno), syscall, *conditions)
    with tempfile.TemporaryFile() as file:
        result.export_bpf(file)
        file.seek(0)
        return file.read()


def _refuse_newer(arch: str) -> bytes:
    """Instructions to run before libseccomp's: a system call above NEWEST does not exist (ENOSYS).

    libseccomp knows no ranges of numbers. Other architectures, and x32's numbers, are left to what
    follows. The opcodes are those of linux/bpf_common.h, the offsets struct seccomp_data's.
    """
    load, equal, greater, ret = 0x20, 0x15, 0x25, 0x06
    x32_bit, ret_errno = 0x40000000, 0x00050000
    code = [
        (load, 0, 0, 4),
        (equal, 0, 4, ARCHITECTURES[arch]),
        (load, 0, 0, 0),
        (greater, 2, 0, x32_bit - 1),
        (greater, 0, 1, NEWEST),
        (ret, 0, 0, ret_errno | ENOSYS),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def write(folder: Path) -> list[Path]:
    """Write every filter below ``folder``; a file is there whole or not at all.

    Returns those that were not there, or different.
    """
    written = []
    for arch in ARCHITECTURES:
        (folder / arch).mkdir(parents=True, exist_ok=True)
        for name in FILTERS:
            path = folder / arch / f"{name}.bpf"
            program = build(name, arch)
            if path.is_file() and path.read_bytes() == program:
                continue
            files.write(path, program)
            written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m serai.runtime.sandbox.seccomp", description="Write the seccomp filters."
    )
    parser.add_argument("outdir", type=Path, help="folder to write <arch>/<filter>.bpf to")
    for path in write(parser.parse_args().outdir):
        print(path)


if __name__ == "__main__":
    main()
