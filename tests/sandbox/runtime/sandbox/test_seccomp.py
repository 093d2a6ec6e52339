"""The filters on the running kernel: the real calls, tried by a payload inside a sandbox.

Each call is chosen so that the kernel itself would answer otherwise than the filter does, even to a
process without any capability; so each refusal is the filter's, which the second test shows.
"""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Iterator
from dataclasses import replace
from errno import EAFNOSUPPORT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT
from signal import SIGSYS

import pytest

from serai.image.guest.attack import rogue
from serai.runtime.sandbox.seccomp import ERROR_QUEUE
from tests.support.sandbox import Room, build_filters, make_session, make_top, open_room

# group of rules, name: (errno, expression inside); BAD is an address that nothing is mapped at.
CALLS: dict[str, dict[str, tuple[int, str]]] = {
    "mount": {
        "mount": (EPERM, "call(X(165, 40), BAD, BAD, BAD, 0, 0)"),
        "umount2": (EPERM, "call(X(166, 39), b'/', 0xffff)"),
        "chroot": (EPERM, "call(X(161, 51), b'/nowhere')"),
        "open_tree": (EPERM, "call(428, -1, BAD, 0x7fffffff)"),
        "fsconfig": (EPERM, "call(431, -1, 0, 0, 0, 0)"),
        "mount_setattr": (EPERM, "call(442, -1, BAD, 0x7fffffff, 0, 0)"),
    },
    "namespaces": {
        "unshare user": (EPERM, "child(lambda: call(X(272, 97), 0x10000000))"),
        "unshare, high bits": (EPERM, "child(lambda: call(X(272, 97), 0x110000000))"),
        "clone user": (EPERM, "child(lambda: clone(0x10000011))"),
        "clone user and mount": (EPERM, "child(lambda: clone(0x10020011))"),
        "setns": (EPERM, "call(X(308, 268), -1, 0)"),
    },
    "clone3": {"clone3": (ENOSYS, "call(435, 0, 0)")},
    "newer": {"listmount": (ENOSYS, "call(458, BAD, 0, 0, 0xff)")},
    "io_uring": {
        "io_uring_setup": (ENOSYS, "call(425, 1, 0)"),
        "io_uring_enter": (ENOSYS, "call(426, -1, 0, 0, 0, 0, 0)"),
        "io_uring_register": (ENOSYS, "call(427, -1, 99, 0, 0)"),
    },
    "bpf": {"bpf": (EPERM, "call(X(321, 280), 0, BAD, 48)")},
    "keyring": {
        "keyctl": (EPERM, "call(X(250, 219), 9999)"),
        "add_key": (EPERM, "call(X(248, 217), BAD, BAD, 0, 0, 0)"),
        "request_key": (EPERM, "call(X(249, 218), BAD, BAD, 0, 0)"),
    },
    "perf": {"perf_event_open": (EPERM, "call(X(298, 241), BAD, 0, -1, -1, 0)")},
    "listener": {"own listener": (EPERM, "call(X(317, 277), 1, 8, BAD)")},
    "userfaultfd": {"userfaultfd": (EPERM, "call(X(323, 282), 1)")},
    "ptrace": {
        "attach": (EPERM, "call(X(101, 117), 16, 4000000, 0, 0)"),
        "seize": (EPERM, "call(X(101, 117), 0x4206, 4000000, 0, 0)"),
        "process_vm_readv": (EPERM, "call(X(310, 270), 1, 0, 0, 0, 0, 1)"),
        "process_vm_writev": (EPERM, "call(X(311, 271), 1, 0, 0, 0, 0, 1)"),
        "pidfd_getfd": (EPERM, "call(438, -1, 0, 1)"),
    },
    "prlimit": {"of PID 1": (EPERM, "call(X(302, 261), 1, 7, BAD, 0)")},
    "terminal": {
        "TIOCSTI": (EPERM, "call(X(16, 29), 0, 0x5412, b'x')"),
        "TIOCSTI, high bits": (EPERM, "call(X(16, 29), 0, 0x100005412, b'x')"),
        "TIOCLINUX": (EPERM, "call(X(16, 29), 0, 0x541c, b'x')"),
    },
    "handles": {"name_to_handle_at": (EPERM, "call(X(303, 264), -1, BAD, BAD, BAD, 0x7fffffff)")},
    "clone-parent": {"clone": (EPERM, "child(lambda: clone(0x8011))")},
    "aio": {"io_setup": (ENOSYS, "call(X(206, 0), 1, BAD)")},
    "memory": {
        "mbind": (EPERM, "call(X(237, 235), BAD, 1, 99, 0, 0, 0)"),
        "move_pages": (EPERM, "call(X(279, 239), 4000000, 1, BAD, BAD, BAD, 99)"),
        "process_madvise": (EPERM, "call(440, -1, BAD, 1, 0, 0)"),
    },
    "set-id": {
        "fchmod": (EPERM, "call(X(91, 52), -1, 0o4755)"),
        "fchmodat": (EPERM, "call(X(268, 53), -100, b'/nowhere', 0o2755)"),
        "openat": (EPERM, "call(X(257, 56), -100, b'/nowhere/x', 0o101, 0o4755)"),
        "openat, unnamed": (EPERM, "call(X(257, 56), -100, b'/nowhere', 0o20200002, 0o4755)"),
        "mkdirat": (EPERM, "call(X(258, 34), -100, b'/nowhere/x', 0o2755)"),
        "mknodat": (EPERM, "call(X(259, 33), -100, b'/nowhere/x', 0o104755, 0)"),
        "openat2": (ENOSYS, "call(437, -1, BAD, BAD, 0)"),
    },
    "devices": {
        "character": (EPERM, "call(X(259, 33), -100, b'/nowhere/x', 0o020644, 0)"),
        "block": (EPERM, "call(X(259, 33), -100, b'/nowhere/x', 0o060644, 0)"),
    },
    "protocol": {"none": (EPROTONOSUPPORT, "call(X(41, 198), 2, 3, 255)")},
    "kernel": {"settimeofday": (EPERM, "call(X(164, 170), BAD, 0)")},
    "family": {
        "packet": (EAFNOSUPPORT, "call(X(41, 198), 17, 3, 0)"),
        "high bits": (EAFNOSUPPORT, "call(X(41, 198), 0x100000002, 1, 0)"),
    },
    "netlink": {"uevent": (EAFNOSUPPORT, "call(X(41, 198), 16, 3, 15)")},
    "error-queue": {
        f"{level} {option}": (ENOPROTOOPT, f"call(X(54, 208), -1, {level}, {option}, BAD, 4)")
        for level, option in ERROR_QUEUE
    },
}
UNIX_CALLS: dict[str, dict[str, tuple[int, str]]] = {
    "unix": {"unix": (EPERM, "call(X(41, 198), 1, 1, 0)")},
    "unix-pair": {
        "datagram pair": (EPERM, "call(X(53, 199), 1, 2, 0, pair)"),
        "raw pair": (EPERM, "call(X(53, 199), 1, 3, 0, pair)"),
    },
}
ALL = CALLS | UNIX_CALLS

PRELUDE = """\
import ctypes, json, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
BAD = 1
pair = (ctypes.c_int * 2)()
def X(x86_64, aarch64):
    return x86_64 if platform.machine() == "x86_64" else aarch64
def call(number, *args):
    ctypes.set_errno(0)
    words = [arg if isinstance(arg, (bytes, ctypes.Array)) else ctypes.c_long(arg) for arg in args]
    result = libc.syscall(ctypes.c_long(number), *words)
    return ctypes.get_errno() if result < 0 else 0
def clone(flags):
    result = libc.syscall(ctypes.c_long(X(56, 220)), ctypes.c_ulong(flags), 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return ctypes.get_errno() if result < 0 else 0
def child(action):
    pid = os.fork()
    if pid == 0:
        os._exit(action())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    with make_top() as top, open_room(make_session(top, "blue", 40001)) as opened:
        yield opened


def try_calls(room: Room, filters: tuple[bytes, ...]) -> dict[str, int]:
    """The errno of every call above, tried by one payload; 0 where it succeeded."""
    rows = [
        f"results[{f'{group}: {name}'!r}] = {code}"
        for group, calls in ALL.items()
        for name, (_, code) in calls.items()
    ]
    code = "\n".join([PRELUDE, "results = {}", *rows, "print(json.dumps(results))"])
    result = room.python(code, filters)
    assert result.status == 0, result
    answers: dict[str, int] = json.loads(result.output)
    return answers


def expected(calls: dict[str, dict[str, tuple[int, str]]]) -> dict[str, int]:
    return {
        f"{group}: {name}": errno
        for group, row in calls.items()
        for name, (errno, _) in row.items()
    }


def test_the_kernel_refuses(room: Room) -> None:
    assert try_calls(room, build_filters()) == expected(ALL)


@pytest.mark.parametrize("group", ALL)
def test_it_is_the_filter_that_refuses(room: Room, group: str) -> None:
    """Without a group of rules its calls end otherwise, and no other's do."""
    weak = build_filters("", group) if group in UNIX_CALLS else build_filters(group)
    wanted, answers = expected(ALL), try_calls(room, weak)
    changed = {name for name in wanted if answers[name] != wanted[name]}
    assert changed == set(expected({group: ALL[group]}))


FOREIGN = """\
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex({code!r}))
print("before", flush=True)
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
print("after", flush=True)
os._exit(0)
"""
MACHINE_CODE = {
    "i386 getpid": "53b814000000cd805bc3",  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    "i386 socketcall": "53b86600000031db31c9cd805bc3",  # eax 102, ebx 0, ecx 0
    "x32 getpid": "b8270000400f05c3",  # mov eax, 0x40000027; syscall; ret
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="arm64 has no second ABI to call")
@pytest.mark.parametrize("name", MACHINE_CODE)
def test_a_foreign_abi_kills_the_process(room: Room, name: str) -> None:
    code = FOREIGN.format(code=MACHINE_CODE[name])
    result = room.python(code)
    assert (result.status, result.output) == (-SIGSYS, "before\n")
    # The counterpart: a filter it is, and not the kernel.
    assert room.python(code, filters=()).output == "before\nafter\n"


def test_a_datagram_pair_would_reach_any_socket(room: Room) -> None:
    """Why unix-block looks at socketpair(2), too."""
    path = room.session.home / "listener"
    code = (
        "import socket\n"
        f"one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        f"one.sendto(b'out', {str(path)!r})"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.setblocking(False)
        refused = room.python(code)
        assert "PermissionError" in refused.output
        with pytest.raises(BlockingIOError):
            listener.recv(10)
        assert room.python(code, build_filters("", "unix-pair")).status == 0
        assert listener.recv(10) == b"out"


def test_the_bridge_may_open_unix_sockets_and_payloads_not(room: Room) -> None:
    code = "import socket; socket.socket(socket.AF_UNIX)"
    assert room.python(code, filters=build_filters()[:1]).status == 0
    assert "PermissionError" in room.python(code).output


# A filter of a payload's own that asks about socket(2), and the payload lets it through.
CONTINUE = (rogue.PAYLOADS / "listener.py").read_text()


def test_no_payload_lets_a_refused_call_through(room: Room) -> None:
    """Also once the daemon hears no more, when another listener could take the place of its own."""
    deaf = replace(room, hears=False)
    assert deaf.python(CONTINUE).output == "no listener: Operation not permitted\n"
    assert room.python(CONTINUE).output == "no listener: Operation not permitted\n"


def test_it_is_the_filter_that_keeps_a_payload_from_that(room: Room) -> None:
    deaf = replace(room, hears=False)
    assert deaf.python(CONTINUE, build_filters("listener")).output == "let through\n"


def test_a_call_that_nobody_is_asked_about_is_refused(room: Room) -> None:
    deaf = replace(room, hears=False)
    assert "Function not implemented" in deaf.python("import socket; socket.socket(1)").output


# As PRoot does with calls that it carries out itself.
CANCEL = """\
import ctypes, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), 19)
    os._exit(0 if libc.syscall(39, 0) == -1 else 1)
os.waitpid(child, 0)
registers = (ctypes.c_ulonglong * 27)()
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for _ in range(1000):
    libc.ptrace(24, child, None, None)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        break
    libc.ptrace(12, child, None, ctypes.byref(registers))
    if registers[15] == 39:
        registers[15] = 0xFFFFFFFFFFFFFFFE
        libc.ptrace(13, child, None, ctypes.byref(registers))
print(status)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="arm64 has no second ABI")
def test_a_tracer_may_cancel_a_call(room: Room) -> None:
    assert room.python(CANCEL).output == "0\n"
