"""The two seccomp filters: rules as data, compiled by libseccomp for every architecture.

``python3 -m serai.runtime.sandbox.seccomp OUTDIR`` writes
``OUTDIR/<arch>/{baseline,unix-block}.bpf``, the
same bytes whichever host it runs on. Each file is an array of ``struct sock_filter``, which is
what ``bwrap --seccomp`` and seccomp(2) take.

The filters allow by default and refuse what is named: they stand beside namespaces, empty
capability sets and no-new-privs, and make the kernel's attack surface smaller. Three things are
refused wholesale, however: other ABIs than the processor's own, address families that are not
listed, and system calls that are newer than the newest we have looked at.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT
from pathlib import Path

from serai.common import files
from serai.common.linux import SECCOMP_NEW_LISTENER

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
NEWEST = 456
"""futex_requeue of Linux 6.7. Numbers above 402 are the same on every architecture."""

CANCELLED = 0xFFFFF000
"""From here on numbers are those of no call, and negative: see ``_before``."""

LOW_32 = 0xFFFFFFFF
"""The part of an argument that the kernel looks at where a parameter is an int."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_DGRAM, SOCK_RAW, SOCK_TYPE_MASK = 2, 3, 0xF
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
PROTOCOLS = (0, 1, 6, 17, 58)
"""Any, ICMP, TCP, UDP and ICMPv6: what IPv4 and IPv6 are used with; the rest loads modules."""

ERROR_QUEUE = (
    *((1, option) for option in (37, 41, 60, 61, 65)),
    *((0, 11), (41, 25)),
)
"""Levels and options that make a socket keep what it tells of packets that it sent: SO_TIMESTAMPING
(old and new), SO_WIFI_STATUS, SO_ZEROCOPY and SO_TXTIME; IP_RECVERR and IPV6_RECVERR."""

S_ISUID, S_ISGID, S_IFMT, S_IFCHR, S_IFBLK = 0o4000, 0o2000, 0o170000, 0o020000, 0o060000
O_CREAT, O_TMPFILE = 0o100, 0o20000000
FCHMODAT2 = 452
CLONE_PARENT = 0x8000
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
    """Refuse ``syscalls`` with ``errno`` if all ``args`` match; ``group`` names the reason.

    With ``errno`` 0 the kernel asks, and ``refusals`` refuses: so it is known afterwards.
    """

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
    for family in (AF_INET, AF_INET6):
        others = [Arg(2, "eq", n) for n in range(max(PROTOCOLS)) if n not in PROTOCOLS]
        for condition in (*others, Arg(2, "gt", max(PROTOCOLS))):
            yield Rule("protocol", ("socket",), (Arg(0, "eq", family), condition), EPROTONOSUPPORT)
    netlink_other_than_route = (Arg(0, "eq", AF_NETLINK), Arg(2, "gt", 0))
    yield Rule("netlink", ("socket",), netlink_other_than_route, EAFNOSUPPORT)


def _error_queues() -> Iterable[Rule]:
    """What waits in a socket's error queue (MSG_ERRQUEUE in recv(2)) counts as nobody's memory.

    A packet can ask for its time itself, where no filter looks: net.core.tstamp_allow_data is 0.
    """
    for level, option in ERROR_QUEUE:
        args = (low(1, level), low(2, option))
        yield Rule("error-queue", ("setsockopt",), args, ENOPROTOOPT)


def _modes() -> Iterable[Rule]:
    """No set-user-ID and set-group-ID bits, and no devices.

    Mounts are nosuid and nodev inside. A file in an attached directory is somebody else's outside,
    where its mode counts: it would be a program with the rights of the directory's owner. These are
    the calls of systemd's RestrictSUIDSGID, fchmodat2 being in ``_before``.
    """
    for mode in (S_ISUID, S_ISGID):
        yield Rule("set-id", ("chmod", "fchmod", "creat", "mkdir", "mknod"), (bit(1, mode),))
        yield Rule("set-id", ("fchmodat", "mkdirat", "mknodat"), (bit(2, mode),))
        for creates in (O_CREAT, O_TMPFILE):
            yield Rule("set-id", ("open",), (bit(1, creates), bit(2, mode)))
            yield Rule("set-id", ("openat",), (bit(2, creates), bit(3, mode)))
    # Its flags and mode lie in memory, as clone3's; who uses it falls back to openat.
    yield Rule("set-id", ("openat2",), errno=ENOSYS)
    for device in (S_IFCHR, S_IFBLK):
        yield Rule("devices", ("mknod",), (Arg(1, "masked", device, S_IFMT),))
        yield Rule("devices", ("mknodat",), (Arg(2, "masked", device, S_IFMT),))


MOUNT = (
    *("mount", "umount2", "pivot_root", "chroot"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
)
KERNEL = (
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "syslog", "lookup_dcookie"),
    *("settimeofday", "clock_settime", "clock_settime64", "iopl", "ioperm", "modify_ldt"),
    *("sysfs", "ustat"),
)

BASELINE: tuple[Rule, ...] = (
    Rule("mount", MOUNT),
    Rule("namespaces", ("setns",)),
    *(Rule("namespaces", ("clone", "unshare"), (bit(0, flag),)) for flag in CLONE_NEW),
    Rule("namespaces", ("unshare",), (bit(0, CLONE_NEWTIME),)),
    # Its flags lie in memory, where a filter can't look; libc falls back to clone(2) on ENOSYS.
    Rule("clone3", ("clone3",), errno=ENOSYS),
    # The child would be its maker's sibling: a child of the daemon, which knows nothing of it.
    Rule("clone-parent", ("clone",), (bit(0, CLONE_PARENT),)),
    # A ring does socket(2), openat(2) and so on past every filter. ENOSYS, as a kernel without it
    # says: on EPERM runtimes abort that otherwise do without (tokio before 11/2025, eio, libxev).
    Rule("io_uring", ("io_uring_setup", "io_uring_enter", "io_uring_register"), errno=ENOSYS),
    Rule("bpf", ("bpf",)),
    Rule("keyring", ("keyctl", "add_key", "request_key")),
    Rule("perf", ("perf_event_open",)),
    Rule("userfaultfd", ("userfaultfd",)),
    # Who is asked about a call can let it through: see ``refusals``.
    Rule("listener", ("seccomp",), (bit(1, SECCOMP_NEW_LISTENER),)),
    # gdb and strace start their tracee, and it asks to be traced: that stays possible. Attaching to
    # a process that did not ask would reach the bridge, which has one filter less.
    *(Rule("ptrace", ("ptrace",), (low(0, how),)) for how in (PTRACE_ATTACH, PTRACE_SEIZE)),
    Rule("ptrace", ("process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp")),
    # The bridge has the payloads' UID: with limits of theirs it ends, or never opens a port again.
    # One's own process is 0, as libc and shells say; to read another's is harmless.
    Rule("prlimit", ("prlimit64",), (Arg(0, "gt", 0), Arg(2, "gt", 0))),
    *(Rule("terminal", ("ioctl",), (low(1, cmd),)) for cmd in (TIOCSTI, TIOCLINUX, TIOCSETD)),
    Rule("handles", ("name_to_handle_at", "open_by_handle_at")),
    Rule("kernel", KERNEL),
    # What it takes is one pool for the whole VM (fs.aio-max-nr).
    Rule("aio", ("io_setup",), errno=ENOSYS),
    Rule("memory", ("mbind", "move_pages", "process_madvise")),
    *_modes(),
    *_families(),
    *_error_queues(),
)

UNIX_BLOCK: tuple[Rule, ...] = (
    Rule("unix", ("socket",), (low(0, AF_UNIX),), errno=0),
    # A pair is harmless, but its datagram variety (SOCK_RAW is the same thing for Unix sockets)
    # can be connected to, or send to, any other socket later. unix(7)
    *(
        Rule("unix-pair", ("socketpair",), (Arg(1, "masked", kind, SOCK_TYPE_MASK),), errno=0)
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
    return _before(arch, name, without) + program


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
        action = seccomp.ERRNO(rule.errno) if rule.errno else seccomp.NOTIFY
        for syscall in rule.syscalls:
            result.add_rule(action, syscall, *conditions)
    with tempfile.TemporaryFile() as file:
        result.export_bpf(file)
        file.seek(0)
        return file.read()


def _before(arch: str, name: str, without: Collection[str]) -> bytes:
    """Instructions to run before libseccomp's, for what it cannot say on every release.

    It knows no ranges of numbers: a system call above NEWEST does not exist (ENOSYS). Older ones
    know no fchmodat2. Other architectures, and x32's numbers, are left to what follows. The opcodes
    are those of linux/bpf_common.h, the offsets struct seccomp_data's.

    A tracer that cancels a call sets its number to -1 or -2 (PRoot), and the filters are asked
    again. With x32's bit in it that looks like a foreign ABI's, but no kernel has such a call.
    """
    load, equal, greater, any_bit, ret = 0x20, 0x15, 0x25, 0x45, 0x06
    x32_bit, ret_errno, mode = 0x40000000, 0x00050000, 16 + 2 * 8
    newer = [(greater, 0, 1, NEWEST), (ret, 0, 0, ret_errno | ENOSYS)]
    set_id = [
        (equal, 0, 3, FCHMODAT2),
        (load, 0, 0, mode),
        (any_bit, 0, 1, S_ISUID | S_ISGID),
        (ret, 0, 0, ret_errno | EPERM),
    ]
    rules = [*(() if "newer" in without else newer), *(() if "set-id" in without else set_id)]
    rules = rules if name == "baseline" else []
    code = [
        (load, 0, 0, 4),
        (equal, 0, len(rules) + 4, ARCHITECTURES[arch]),
        (load, 0, 0, 0),
        (greater, 0, 1, CANCELLED - 1),
        (ret, 0, 0, ret_errno | ENOSYS),
        (greater, len(rules), 0, x32_bit - 1),
        *rules,
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
    parser.add_argument("outdir", type=Path, help="directory to write <arch>/<filter>.bpf to")
    for path in write(parser.parse_args().outdir):
        print(path)


if __name__ == "__main__":
    main()
