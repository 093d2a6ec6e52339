"""The system calls that payloads are refused, as data: what the probe tries and what to expect.

Each is really made, inside. A filter of the probe's own, which is weaker than those of the session,
catches what they let pass (as ENOSYS) before the kernel carries it out: so a broken sandbox shows,
and is not used to restart the VM. A call's errno is then the session's filter's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT
from typing import Any

MACHINES = ("x86_64", "aarch64")
BAD = 1  # an address that nothing is mapped at
AF_UNIX, AF_INET, AF_NETLINK, AF_ALG, AF_PACKET, AF_VSOCK = 1, 2, 16, 38, 17, 40


@dataclass(frozen=True)
class Call:
    """One try. ``numbers`` are those of ``MACHINES``; None where there is no such call.

    ``real``: the kernel itself is asked, as the filter's errno is the one of the probe's own.
    """

    name: str
    numbers: tuple[int | None, int | None]
    args: tuple[int, ...] = ()
    real: bool = False

    def number(self, machine: str) -> int | None:
        """The call's number on a processor (uname -m)."""
        return self.numbers[MACHINES.index(machine)]


@dataclass(frozen=True)
class Group:
    """Calls that are refused for one reason, with the same errno; ``strict``: there alone."""

    name: str
    means: str
    calls: tuple[Call, ...]
    errno: int = EPERM
    strict: bool = False


def _call(name: str, x86_64: int | None, aarch64: int | None = -1, *args: int) -> Call:
    return Call(name, (x86_64, x86_64 if aarch64 == -1 else aarch64), args)


SAME = -1  # above 402 a number is the same everywhere
NEW = {
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
HIGH = 1 << 32
SIGCHLD = 17

GROUPS = (
    Group(
        "mounting is refused",
        "A payload could rearrange its file system and uncover what is hidden below a mount.",
        (
            _call("mount", 165, 40, BAD, BAD, BAD, 0, 0),
            _call("umount2", 166, 39, BAD, 0),
            _call("pivot_root", 155, 41, BAD, BAD),
            _call("chroot", 161, 51, BAD),
            _call("open_tree", 428, SAME, -1, BAD, 0),
            _call("move_mount", 429, SAME, -1, BAD, -1, BAD, 0),
            _call("fsopen", 430, SAME, BAD, 0),
            _call("fsconfig", 431, SAME, -1, 0, 0, 0, 0),
            _call("fsmount", 432, SAME, -1, 0, 0),
            _call("fspick", 433, SAME, -1, BAD, 0),
            _call("mount_setattr", 442, SAME, -1, BAD, 0, 0, 0),
        ),
    ),
    Group(
        "unshare makes no namespace",
        "In a user namespace of its own a payload is root and reaches much more of the kernel.",
        (
            *(_call(f"unshare {kind}", 272, 97, flag) for kind, flag in NEW.items()),
            _call("unshare time", 272, 97, 0x80),
            _call("unshare user, high bits", 272, 97, HIGH | NEW["user"]),
        ),
    ),
    Group(
        "clone makes no namespace",
        "In a user namespace of its own a payload is root and reaches much more of the kernel.",
        tuple(_call(f"clone {kind}", 56, 220, flag | SIGCHLD) for kind, flag in NEW.items()),
    ),
    Group(
        "setns is refused",
        "A payload that gets hold of a namespace's descriptor could change over to it.",
        (_call("setns", 308, 268, -1, 0),),
    ),
    Group(
        "clone3 does not exist",
        "It makes namespaces whose flags no filter can see.",
        (Call("clone3", (435, 435), (0, 0), real=True),),
        ENOSYS,
    ),
    Group(
        "system calls that are newer than the filter do not exist",
        "Nobody has checked yet what these calls allow.",
        (Call("listmount", (458, 458), (BAD, 0, 0, 0xFF), real=True),),
        ENOSYS,
    ),
    Group(
        "io_uring does not exist",
        "A ring makes system calls past every filter.",
        (
            Call("io_uring_setup", (425, 425), (1, BAD), real=True),
            Call("io_uring_enter", (426, 426), (-1, 0, 0, 0, 0, 0), real=True),
            Call("io_uring_register", (427, 427), (-1, 99, 0, 0), real=True),
        ),
        ENOSYS,
    ),
    Group(
        "bpf is refused",
        "Programs in the kernel are its most attacked part.",
        (_call("bpf", 321, 280, 0, BAD, 48),),
    ),
    Group(
        "kernel keyrings are refused",
        "Keys are kept by user, not by namespace, and their code has had many holes.",
        (
            _call("keyctl", 250, 219, 9999),
            _call("add_key", 248, 217, BAD, BAD, 0, 0, 0),
            _call("request_key", 249, 218, BAD, BAD, 0, 0),
        ),
    ),
    Group(
        "perf_event_open is refused",
        "Performance counters tell of other processes, and their code has had many holes.",
        (_call("perf_event_open", 298, 241, BAD, 0, -1, -1, 0),),
    ),
    Group(
        "userfaultfd is refused",
        "Many kernel races become exploitable if a copy can be paused.",
        (_call("userfaultfd", 323, 282, 1),),
    ),
    Group(
        "attaching to a process is refused",
        "A payload could take over the bridge, which has one filter less.",
        (
            _call("PTRACE_ATTACH", 101, 117, 16, 4_000_000, 0, 0),
            _call("PTRACE_SEIZE", 101, 117, 0x4206, 4_000_000, 0, 0),
            _call("PTRACE_ATTACH, high bits", 101, 117, HIGH | 16, 4_000_000, 0, 0),
        ),
    ),
    Group(
        "other processes' memory and descriptors are refused",
        "A payload could write into the bridge, or take its sockets.",
        (
            _call("process_vm_readv", 310, 270, 1, 0, 0, 0, 0, 1),
            _call("process_vm_writev", 311, 271, 1, 0, 0, 0, 0, 1),
            _call("pidfd_getfd", 438, SAME, -1, 0, 1),
            _call("kcmp", 312, 272, 1, 1, 0, 0, 0),
        ),
    ),
    Group(
        "limits of another process are refused",
        "A payload could end the bridge, which is its session's PID 1, or keep it from its work.",
        (_call("prlimit64", 302, 261, 1, 7, BAD, 0),),
    ),
    Group(
        "typing into a terminal is refused",
        "A payload could have commands run by the person at the terminal it was started from.",
        (
            _call("TIOCSTI", 16, 29, 0, 0x5412, BAD),
            _call("TIOCSTI, high bits", 16, 29, 0, HIGH | 0x5412, BAD),
            _call("TIOCLINUX", 16, 29, 0, 0x541C, BAD),
            _call("TIOCSETD", 16, 29, 0, 0x5423, BAD),
        ),
    ),
    Group(
        "file handles are refused",
        "A handle opens a file without its path, past everything that hides it.",
        (
            _call("name_to_handle_at", 303, 264, -1, BAD, BAD, BAD, 0),
            _call("open_by_handle_at", 304, 265, -1, BAD, 0),
        ),
    ),
    Group(
        "set-user-ID bits and devices are refused",
        "In an attached directory they count outside, with the rights of the directory's owner.",
        (
            _call("chmod set-user-ID", 90, None, BAD, 0o4755),
            _call("fchmod set-user-ID", 91, 52, -1, 0o4755),
            _call("fchmodat set-group-ID", 268, 53, -1, BAD, 0o2755),
            _call("fchmodat2 set-user-ID", 452, SAME, -1, BAD, 0o4755, 0),
            _call("creat set-user-ID", 85, None, BAD, 0o4755),
            _call("open set-user-ID", 2, None, BAD, 0o101, 0o4755),
            _call("openat set-user-ID", 257, 56, -1, BAD, 0o101, 0o4755),
            _call("openat set-user-ID, unnamed", 257, 56, -1, BAD, 0o20200002, 0o4755),
            _call("mkdir set-group-ID", 83, None, BAD, 0o2755),
            _call("mkdirat set-group-ID", 258, 34, -1, BAD, 0o2755),
            _call("mknod a disk", 133, None, BAD, 0o060644, 0),
            _call("mknodat a disk", 259, 33, -1, BAD, 0o060644, 0),
        ),
    ),
    Group(
        "openat2 does not exist",
        "It makes files whose mode no filter can see.",
        (Call("openat2", (437, 437), (-1, BAD, BAD, 0), real=True),),
        ENOSYS,
    ),
    Group(
        "io_setup does not exist",
        "It takes from one pool for all sessions.",
        (Call("io_setup", (206, 0), (1, BAD), real=True),),
        ENOSYS,
    ),
    Group(
        "no times or errors of sent packets are kept",
        "The kernel counts that memory for no session: one session can take all of the VM's.",
        tuple(
            _call(f"setsockopt {name}", 54, 208, -1, level, option, BAD, 4)
            for name, level, option in (
                ("SO_TIMESTAMPING", 1, 37),
                ("SO_TIMESTAMPING_NEW", 1, 65),
                ("IP_RECVERR", 0, 11),
                ("IPV6_RECVERR", 41, 25),
            )
        ),
        ENOPROTOOPT,
    ),
    Group(
        "moving memory between nodes is refused",
        "These calls reach other processes' memory, or are hardly ever needed and tested.",
        (
            _call("mbind", 237, 235, BAD, 1, 99, 0, 0, 0),
            _call("move_pages", 279, 239, 4_000_000, 1, BAD, BAD, BAD, 99),
            _call("process_madvise", 440, SAME, -1, BAD, 1, 0, 0),
        ),
    ),
    Group(
        "old calls about file systems are refused",
        "Nothing uses them any more.",
        (_call("sysfs", 139, None, 99), _call("ustat", 136, None, 0, BAD)),
    ),
    Group(
        "no process is made for its maker's parent",
        "It would be a child of the daemon, which would never take it away.",
        (_call("clone parent", 56, 220, 0x8000 | SIGCHLD),),
    ),
    Group(
        "loading kernel modules is refused",
        "A module runs in the kernel: loading one gives control of the VM.",
        (
            _call("init_module", 175, 105, BAD, 0, BAD),
            _call("finit_module", 313, 273, -1, BAD, 0),
            _call("delete_module", 176, 106, BAD, 0),
        ),
    ),
    Group(
        "restarting the VM or its kernel is refused",
        "One session could end all others.",
        (
            _call("reboot", 169, 142, 0, 0, 0, 0),
            _call("kexec_load", 246, 104, 0, 0, BAD, 0),
            _call("kexec_file_load", 320, 294, -1, -1, 0, BAD, 0),
        ),
    ),
    Group(
        "the VM's swap, quotas and accounting are refused",
        "A session could take the VM's memory or disk from the others, or watch them.",
        (
            _call("swapon", 167, 224, BAD, 0),
            _call("swapoff", 168, 225, BAD),
            _call("quotactl", 179, 60, -1, BAD, 0, BAD),
            _call("quotactl_fd", 443, SAME, -1, -1, 0, BAD),
            _call("acct", 163, 89, BAD),
        ),
    ),
    Group(
        "the kernel's log is refused",
        "The log tells addresses in the kernel and what other sessions caused.",
        (_call("syslog", 103, 116, 10, 0, 0), _call("lookup_dcookie", 212, 18, 0, BAD, 0)),
    ),
    Group(
        "setting the clock is refused",
        "A wrong clock makes certificates valid again and the audit log worthless.",
        (
            _call("settimeofday", 164, 170, BAD, 0),
            _call("clock_settime", 227, 112, 0, BAD),
        ),
    ),
    Group(
        "ports and segments of the processor are refused",
        "A payload could drive devices itself, or use rarely tested parts of the kernel.",
        (
            _call("iopl", 172, None, 0),
            _call("ioperm", 173, None, 0, 0, 0),
            _call("modify_ldt", 154, None, 99, 0, 0),
        ),
    ),
    Group(
        "only IP, Unix and routing sockets exist",
        "Other families lead past the network namespace (vsock) or into little tested code.",
        (
            _call("socket AF_PACKET", 41, 198, AF_PACKET, 3, 0),
            _call("socket AF_ALG", 41, 198, AF_ALG, 5, 0),
            _call("socket AF_VSOCK", 41, 198, AF_VSOCK, 1, 0),
            _call("socket AF_AX25", 41, 198, 3, 1, 0),
            _call("socketpair AF_VSOCK", 53, 199, AF_VSOCK, 1, 0, BAD),
        ),
        EAFNOSUPPORT,
    ),
    Group(
        "of IP's protocols there are TCP, UDP and ICMP only",
        "Others load little tested code into the kernel.",
        (_call("socket SCTP", 41, 198, AF_INET, 1, 132),),
        EPROTONOSUPPORT,
    ),
    Group(
        "a socket's family cannot hide in high bits",
        "The kernel ignores those bits: a filter that looks at them can be passed.",
        (
            _call("socket AF_INET, high bits", 41, 198, HIGH | AF_INET, 1, 0),
            _call("socket AF_VSOCK, high bits", 41, 198, HIGH | AF_VSOCK, 1, 0),
        ),
        EAFNOSUPPORT,
    ),
    Group(
        "netlink is limited to routing",
        "Netfilter, audit and device events are large parts of the kernel, and tell of the VM.",
        (
            _call("netlink uevent", 41, 198, AF_NETLINK, 3, 15),
            _call("netlink netfilter", 41, 198, AF_NETLINK, 3, 12),
        ),
        EAFNOSUPPORT,
    ),
    Group(
        "no payload is asked about calls",
        "It could let through what a filter of the sandbox asks about.",
        (_call("seccomp with a listener", 317, 277, 1, 8, BAD),),
    ),
    Group(
        "payloads cannot make Unix sockets",
        "A service of the VM whose socket becomes visible could be spoken to.",
        (_call("socket AF_UNIX", 41, 198, AF_UNIX, 1, 0),),
        strict=True,
    ),
    Group(
        "payloads cannot make Unix datagram pairs",
        "One of a pair can be connected to any other Unix socket later.",
        (
            _call("socketpair SOCK_DGRAM", 53, 199, AF_UNIX, 2, 0, BAD),
            _call("socketpair SOCK_RAW", 53, 199, AF_UNIX, 3, 0, BAD),
        ),
        strict=True,
    ),
)


def request(machine: str) -> list[list[Any]]:
    """What the probe is to try: name, number, arguments, and whether the kernel is asked."""
    return [
        [call.name, call.number(machine), list(call.args), call.real]
        for group in GROUPS
        for call in group.calls
        if call.number(machine) is not None
    ]
