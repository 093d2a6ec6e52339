"""The usher: a small process that starts payloads inside a session.

The problem. A payload has to start inside the session's namespaces and cgroup, as the session's
user, without privileges. Nothing privileged may live inside a sandbox, so root has to start it
from outside. A fork copies the memory map of the process that forks, and the daemon is large.

The idea. A small process, the usher, does the forking. Three processes take part:

1. The daemon (``enter``) checks everything that can be checked before. It describes the payload in
   a Plan and sends the plan to the usher, with the descriptors that the payload needs.
2. The usher joins the session's PID namespace. That changes nothing for the usher itself, only for
   its later children: they get a PID inside. It then clones the payload into the session's cgroup.
   The payload becomes a child of the daemon (CLONE_PARENT), so the daemon can wait for it.
3. The payload joins the other namespaces, drops every right, installs the seccomp filters and
   executes the command.

The order in ``_payload`` is the security of it. From the fork on, processes inside can see the
payload, and they are hostile. So the payload:

- begins with the usher's root, which is that of /proc: its table of mounts, which everybody may
  read, shows nothing of the VM before it shows the sandbox's;
- is not dumpable until exec, and until it drops its capabilities it has more than they have, so
  they cannot trace it;
- closes every descriptor that it no longer needs: after the join it has only its own three and
  the socket to the caller;
- becomes the session's user before it opens a path or a terminal, so that a trap in a path gets
  the session's rights and no others;
- installs the filters last, because they refuse system calls that the steps before need.

Each step has a name (STAGES). The payload reports an error, with the name of its step, on the
socket REPORT, which exec closes. If the socket ends without an error, the command runs.

The usher runs as a program of its own (``enter.Door``), or in a fork of the caller.
"""

from __future__ import annotations

import array
import contextlib
import marshal
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from errno import EACCES, ENOENT, ENOTDIR
from typing import NamedTuple, NoReturn

if __name__ == "__main__":  # started by its path, so that Python finds nothing but this package
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))  # noqa: PTH120

from serai.common import linux, stdio

REPORT, PIDFD, CGROUP = 3, 4, 5
"""The descriptors that a payload has beside its own three, until it executes the command."""

PID, TERMINAL, LISTENER, ERROR = b"P", b"T", b"L", b"E"
STAGES = ("prepare", "fork", "cgroup", "join", "drop", "terminal", "cwd", "filter", "exec")


class Plan(NamedTuple):
    """A payload. It has only types that marshal can write.

    With cgroup v1 it has to ``move`` to its cgroup. ``candidates`` are the paths to try for the
    command, ``limits`` are pairs for setrlimit(2). The first of ``filters`` refuses by itself; if
    there is a second one, the kernel asks about what that refuses. ``tty`` are a terminal's rows
    and columns: the command may ask for them before its caller has the terminal.
    """

    uid: int
    gid: int
    move: bool
    argv: list[str]
    candidates: list[str]
    env: dict[str, str]
    cwd: str
    limits: list[tuple[int, int]]
    filters: list[bytes]
    tty: tuple[int, int] | None
    oom_score_adj: bytes
    last_capability: int


def hide() -> None:
    """Take the root of /proc for this process and its children: nothing else is needed here."""
    os.chroot("/proc")
    os.chdir("/")


def admit(plan: Plan, fds: Sequence[int]) -> int:
    """Start the payload of ``plan`` with ``fds``: its three, REPORT, PIDFD, and CGROUP or none.

    The payload's PID, its terminal, its listener and its errors are sent to REPORT. The caller
    keeps its descriptors. Returns the PID, 0 if there is none.
    """
    try:
        linux.join(fds[PIDFD], linux.PID_NAMESPACE)
        born = len(fds) > CGROUP and not plan.move
        pid = linux.fork_sibling(fds[CGROUP] if born else None)
    except OSError as error:
        _send_error(fds[REPORT], "fork", error)
        return 0
    if pid == 0:
        _payload(plan, fds)
    with contextlib.suppress(OSError):  # whoever asked is gone; the payload is there all the same
        _send(fds[REPORT], PID + struct.pack("=i", pid))
    return pid


def _payload(plan: Plan, fds: Sequence[int]) -> NoReturn:
    """In the child. Processes inside see it, but cannot touch it before it has changed its UID."""
    report, stage = fds[REPORT], "prepare"
    try:
        linux.set_undumpable()
        linux.move(zip(fds, range(len(fds)), strict=True), above=max(64, *fds))
        report = REPORT
        linux.close_from(len(fds))
        os.umask(0o022)
        os.setgroups([])
        for kind, value in plan.limits:
            _limit(kind, value)
        linux.new_keyring()  # as root, since a user's number of keys is small
        _write("self/oom_score_adj", plan.oom_score_adj)
        stage = "cgroup"
        if plan.move:
            _write("cgroup.procs", b"0", CGROUP)
        linux.close_from(PIDFD + 1)
        stage = "join"
        linux.join(PIDFD, linux.OTHER_NAMESPACES)
        linux.close_from(PIDFD)
        stage = "drop"
        os.set_inheritable(REPORT, False)
        os.setsid()
        linux.default_signals()
        os.setresgid(plan.gid, plan.gid, plan.gid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
        # Nobody inside could trace it before this line: it still has more capabilities than they.
        linux.set_undumpable()
        linux.drop_capabilities(plan.last_capability)
        linux.set_no_new_privileges()
        linux.confine_tracing()
        if plan.tty:
            stage = "terminal"
            _take_terminal(*plan.tty)
        stage = "cwd"
        os.chdir(plan.cwd)
        stage = "filter"
        for program in plan.filters[1:]:
            _install_asking(program)
        for program in plan.filters[:1]:  # the last to be installed: it refuses to ask
            linux.Filter(program).install()
        stage = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute(plan)
    except BaseException as error:  # a child must not run its parent's handlers
        try:
            _send_error(report, stage, error)
        finally:
            os._exit(127)


def _limit(kind: int, value: int) -> None:
    """Set a limit. Where not even root may have that much, as in a container, take the most.

    systemd does the same for the unit: systemd.exec(5), "LimitCPU=".
    """
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError:
        _, most = resource.getrlimit(kind)
        resource.setrlimit(kind, (most, most))


def _take_terminal(rows: int, columns: int) -> None:
    master, slave = linux.open_terminal()
    linux.resize(slave, rows, columns)
    linux.take_terminal(slave)
    for number in range(3):
        os.dup2(slave, number)
    _send(REPORT, TERMINAL, master)
    os.close(master)
    os.close(slave)


def _install_asking(program: bytes) -> None:
    """The kernel will ask the caller about what this filter refuses: see ``refusals``."""
    listener = linux.Filter(program).install_asking()
    with contextlib.suppress(OSError):  # nobody is there to be asked: then the kernel refuses
        _send(REPORT, LISTENER, listener)
    os.close(listener)


def _execute(plan: Plan) -> NoReturn:
    """Execute the first candidate there is, as execvp(3) does."""
    denied: OSError | None = None
    for path in plan.candidates:
        try:
            os.execve(path, plan.argv, plan.env)  # noqa: S606  # no shell is wanted
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, EACCES):
                raise
            denied = error if error.errno == EACCES else denied
    raise denied or FileNotFoundError(ENOENT, os.strerror(ENOENT))


def _write(path: str, data: bytes, below: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=below)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _send(fd: int, message: bytes, passed: int | None = None) -> None:
    fds = [] if passed is None else [passed]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(fileno=os.dup(fd)) as end:
        end.sendmsg([message], rights)


def _send_error(fd: int, stage: str, error: BaseException) -> None:
    errno = error.errno if isinstance(error, OSError) and error.errno else 0
    text = str(error).encode(errors="replace")[:1000]
    _send(fd, ERROR + struct.pack("=Bi", STAGES.index(stage), errno) + text)


def serve(connection: socket.socket) -> None:
    """Admit payloads until the other end is closed; a message's first descriptor is its plan."""
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 1, 8)
        if not message:
            return
        try:
            with open(fds[0], "rb") as file:  # noqa: PTH123  # a descriptor, closed with it
                file.seek(0)
                plan = Plan(*marshal.load(file))  # noqa: S302  # from the daemon, root like us
            admit(plan, fds[1:])
        finally:
            for fd in fds[1:]:
                os.close(fd)


if __name__ == "__main__":
    stdio.open_closed()
    linux.set_undumpable()
    hide()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGTERM})
    serve(socket.socket(fileno=int(sys.argv[1])))
