"""System calls that Python 3.10 has no name for. Each raises OSError with the errno's own text.

They are used between fork and exec, so nothing here imports, logs or takes a lock. Functions of
one call have its name; those of several say what they do.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterable, Mapping

# PyDLL keeps the interpreter's lock during a call: the child of a clone() finds it held by itself.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# asm-generic/unistd.h, the same on every architecture since 5.1; asm/unistd_64.h for the rest
NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsconfig": 431,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_LANDLOCK_REFER, _ACCESS_FS_REFER, _RULE_PATH_BENEATH = 2, 1 << 13, 1  # linux/landlock.h
_RT_SIGACTION, _KEYCTL, _SECCOMP = {
    "x86_64": (13, 250, 317),
    "aarch64": (134, 219, 277),
}[os.uname().machine]

# linux/sched.h
_CLONE_PARENT, _CLONE_INTO_CGROUP = 0x8000, 0x200000000
MOUNT_NAMESPACE, USER_NAMESPACE, PID_NAMESPACE = 0x20000, 0x10000000, 0x20000000
NETWORK_NAMESPACE = 0x40000000
OTHER_NAMESPACES = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x40000000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER and NEWNET."""

MOUNT_RDONLY, MOUNT_NOSUID, MOUNT_NODEV, MOUNT_IDMAP = 0x1, 0x2, 0x4, 0x100000  # linux/mount.h
_OPEN_TREE_CLONE, _MOVE_EMPTY_PATHS, _AT_EMPTY_PATH = 0x1, 0x4 | 0x40, 0x1000
_MS_PRIVATE, _MS_REC, _UMOUNT_NOFOLLOW = 1 << 18, 1 << 14, 8
_AT_FDCWD, _FSPICK_HERE, _FSCONFIG_STRING, _FSCONFIG_RECONFIGURE = -100, 0x1 | 0x2 | 0x4, 1, 7
# linux/openat2.h
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x1, 0x2, 0x4, 0x8

_RENAME_NOREPLACE = 1  # linux/fs.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_KEEPCAPS = 8
_CAP_DAC_READ_SEARCH = 2
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_NEW_LISTENER = 8
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_TIOCSPTLCK, _TIOCGPTPEER, _TIOCSCTTY, _TIOCSWINSZ = 0x40045431, 0x5441, 0x540E, 0x5414
_PTMX = os.makedev(5, 2)
_TIMEX_SIZE, _TIME_ERROR = 256, 5  # linux/timex.h; all zero: nothing is set
_SIGKILL, _LAST_SIGNAL = 9, 64
_SIGACTION_SIZE = 32  # handler, flags, restorer, mask: all zero is SIG_DFL


def _check(result: int) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _call(name: str, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(NUMBERS[name]), *arguments))


def errno_of(name: str, *words: int) -> int:
    """What a call says to these arguments, 0 if it succeeds: ENOSYS where the kernel has none."""
    try:
        _call(name, *(ctypes.c_long(word) for word in words))
    except OSError as error:
        return error.errno or 0
    return 0


def clock_synchronised() -> bool | None:
    """Whether something keeps the clock right: adjtimex(2), which takes no right to be read.

    None where it is refused, as in a container.
    """
    state = _libc.adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    return None if state == -1 else state != _TIME_ERROR


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size"),
            *("tls", "set_tid", "set_tid_size", "cgroup"),
        )
    )


def join(pidfd: int, kinds: int) -> None:
    """Join namespaces of a process, all at once; setns(2), Linux 5.8.

    The kernel takes the user namespace first and checks the others against it, but switches to none
    of them before all are allowed. Of the PID namespace only later children become members.
    """
    _check(_libc.setns(pidfd, kinds))


def fork_sibling(cgroup: int | None) -> int:
    """As os.fork(), but the child's parent is the caller's parent, and it is born in ``cgroup``.

    ``cgroup`` is a descriptor of a cgroup v2 folder. Being born there is quick; moving there makes
    the kernel wait for all CPUs, 5 to 10 ms. clone3(2): CLONE_PARENT, CLONE_INTO_CGROUP. Only for
    a process with a single thread, whose child leaves by exec or _exit.
    """
    flags = _CLONE_PARENT | (0 if cgroup is None else _CLONE_INTO_CGROUP)
    args = _CloneArgs(flags=flags, cgroup=cgroup or 0)
    return _call("clone3", ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))


def unshare(kinds: int) -> None:
    """Leave namespaces for new ones; unshare(2)."""
    _check(_libc.unshare(kinds))


def make_mounts_private() -> None:
    """Let no mount of this namespace appear in another, and none of another here; mount(2)."""
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


def open_tree(source: int) -> int:
    """A mount of the open directory ``source`` that is nowhere yet; open_tree(2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _call("open_tree", source, b"", ctypes.c_uint(flags))


def mount_setattr(tree: int, attributes: int, users: int = 0) -> None:
    """Set attributes of a mount and make it private; mount_setattr(2).

    ``users`` is a descriptor of the user namespace that MOUNT_IDMAP maps by.
    """
    packed = struct.pack("=QQQQ", attributes, 0, _MS_PRIVATE, users)
    size = ctypes.c_size_t(len(packed))
    _call("mount_setattr", tree, b"", ctypes.c_uint(_AT_EMPTY_PATH), packed, size)


def move_mount(tree: int, target: int) -> None:
    """Put a mount at the open directory ``target``; move_mount(2)."""
    _call("move_mount", tree, b"", target, b"", ctypes.c_uint(_MOVE_EMPTY_PATHS))


def reconfigure(path: str, options: Mapping[str, str]) -> None:
    """Give the file system that is mounted at ``path`` all its options anew; fsconfig(2).

    ``path`` is no symlink, and may lie in the mount namespace of another process (/proc/PID/root).
    """
    picked = _call("fspick", _AT_FDCWD, os.fsencode(path), ctypes.c_uint(_FSPICK_HERE))
    try:
        for name, value in options.items():
            _call("fsconfig", picked, _FSCONFIG_STRING, name.encode(), value.encode(), 0)
        _call("fsconfig", picked, _FSCONFIG_RECONFIGURE, None, None, 0)
    finally:
        os.close(picked)


def umount2(path: str) -> None:
    """Unmount what is at ``path``, which is no symlink; umount2(2), UMOUNT_NOFOLLOW."""
    _check(_libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW))


class _OpenHow(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("flags", "mode", "resolve"))


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open a path below ``directory``, resolved as the RESOLVE_ bits say; openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _call("openat2", directory, path, ctypes.byref(how), size)


def quotactl_fd(directory: int, command: int, uid: int, block: bytearray) -> None:
    """Ask or tell the file system of ``directory`` of a user's quota; quotactl(2), Linux 5.14."""
    buffer = (ctypes.c_char * len(block)).from_buffer(block)
    _call("quotactl_fd", directory, ctypes.c_uint(command), uid, buffer)


def rename_new(source: int, old: str, target: int, new: str) -> None:
    """As os.rename() between open directories, but what is there stays: EEXIST; renameat2(2)."""
    names = os.fsencode(old), os.fsencode(new)
    _check(_libc.renameat2(source, names[0], target, names[1], ctypes.c_uint(_RENAME_NOREPLACE)))


def syncfs(descriptor: int) -> None:
    """Write all of a file system to its disk; syncfs(2)."""
    _check(_libc.syncfs(descriptor))


def inotify() -> int:
    """A descriptor that events can be read from; inotify_init1(2)."""
    return _check(_libc.inotify_init1(os.O_CLOEXEC))


def inotify_add(watch: int, directory: int, events: int) -> int:
    """Watch the open directory; returns the watch's number; inotify_add_watch(2)."""
    path = f"/proc/self/fd/{directory}".encode()
    return _check(_libc.inotify_add_watch(watch, path, ctypes.c_uint32(events)))


def inotify_remove(watch: int, number: int) -> None:
    """End one watch; inotify_rm_watch(2)."""
    _check(_libc.inotify_rm_watch(watch, number))


def die_with_parent() -> None:
    """Have this process killed when the one that made it ends; prctl(2), PR_SET_PDEATHSIG."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0))


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` up; close_range(2)."""
    _check(_libc.close_range(ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0))


def set_undumpable() -> None:
    """Let no process of this UID trace this one or read its memory; prctl(2), ptrace(2)."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def set_no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def new_keyring() -> None:
    """Leave the session keyring for an empty one; a kernel without keyrings is fine."""
    _libc.syscall(_KEYCTL, ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None, 0, 0, 0)


def last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:  # noqa: PTH123  # no import of ours
        return int(file.read())


def drop_capabilities(last: int) -> None:
    """Empty all five capability sets, from ``last`` down; capabilities(7)."""
    for capability in range(last + 1):
        _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
    empty_capabilities()


def empty_capabilities() -> None:
    """Empty the sets that count without an exec; with no-new-privs an exec adds none."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()))


def read_anything() -> None:
    """Keep one capability of root's when it becomes another user: to read whatever its modes say.

    Called before; ``keep_reading`` after it.
    """
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))


def keep_reading() -> None:
    """Have CAP_DAC_READ_SEARCH and no other capability: capabilities(7)."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    bit = 1 << _CAP_DAC_READ_SEARCH
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(bit, bit, 0, 0, 0, 0)))


def default_signals() -> None:
    """Give every signal its default action; what Python ignores (SIGPIPE) would outlive exec."""
    # The system call itself: libc's wrappers refuse the two signals that it keeps for threads,
    # which a caller may have left ignored. The kernel refuses SIGKILL and SIGSTOP.
    action, size = ctypes.create_string_buffer(_SIGACTION_SIZE), ctypes.c_size_t(8)
    for number in range(1, _LAST_SIGNAL + 1):
        _libc.syscall(ctypes.c_long(_RT_SIGACTION), number, action, None, size)


def landlock_version() -> int:
    """Which version of Landlock the kernel has; 0: none."""
    version: int = _libc.syscall(
        ctypes.c_long(NUMBERS["landlock_create_ruleset"]), None, ctypes.c_size_t(0), 1
    )
    return max(version, 0)


def confine_tracing() -> None:
    """Keep this process and its children from looking into processes that they did not start.

    Same UID means that a payload could otherwise write to the memory of the bridge, which has one
    filter less. A Landlock domain may trace only what is in it (Landlock documentation, "Ptrace
    restrictions"). As a domain has to handle something, it handles moving
    files between folders, and allows it everywhere. Needs no-new-privs; a kernel without Landlock,
    or with its first version that can't allow that, is left to Yama's ptrace_scope.
    """
    if landlock_version() < _LANDLOCK_REFER:
        return
    refer = ctypes.c_uint64(_ACCESS_FS_REFER)
    ruleset = _call("landlock_create_ruleset", ctypes.byref(refer), ctypes.c_size_t(8), 0)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", _ACCESS_FS_REFER, root)
    _call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
    _call("landlock_restrict_self", ruleset, 0)
    os.close(root)
    os.close(ruleset)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A seccomp filter, in the memory layout that seccomp(2) takes."""

    def __init__(self, program: bytes) -> None:
        if not program or len(program) % 8:
            raise ValueError(f"a seccomp filter of {len(program)} bytes")
        self._program = ctypes.create_string_buffer(program, len(program))
        self._header = _Program(len(program) // 8, ctypes.addressof(self._program))

    def install(self) -> None:
        """Bind this thread and its children to the filter, for good."""
        self._install(0)

    def install_asking(self) -> int:
        """The same; returns a descriptor at which the kernel asks: seccomp_unotify(2)."""
        return self._install(SECCOMP_NEW_LISTENER)

    def _install(self, flags: int) -> int:
        mode, header = ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.byref(self._header)
        return _check(_libc.syscall(_SECCOMP, mode, ctypes.c_long(flags), header))


def open_terminal() -> tuple[int, int]:
    """A new terminal of this mount namespace's devpts: its master and its slave; pts(4).

    The slave is asked of the master (ioctl_tty(2), TIOCGPTPEER), since a path may be anything.
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.fstat(master).st_rdev != _PTMX:
        raise OSError(19, "/dev/pts/ptmx is no terminal multiplexer")
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
    return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Set a terminal's size in characters: ioctl_tty(2)."""
    fcntl.ioctl(terminal, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take_terminal(slave: int) -> None:
    """Make ``slave`` the controlling terminal; the caller leads a session without one."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)


def move(pairs: Iterable[tuple[int, int]], above: int) -> None:
    """Make each descriptor the number beside it, though numbers overlap; ``above`` all of them."""
    copies = [(fcntl.fcntl(fd, fcntl.F_DUPFD, above), number) for fd, number in pairs]
    for copy, number in copies:
        os.dup2(copy, number)
