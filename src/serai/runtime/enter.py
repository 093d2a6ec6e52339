"""Start a payload in a running session from outside.

Three processes take part. The caller forks an *usher*, which is still root: it joins the session's
PID namespace and clones the *payload* into its cgroup; that is the caller's child, too. The payload
joins the other namespaces, gives everything up and executes the command; its socket to the caller
closes with that. Everything inside is hostile and has the payload's UID, so from the moment it has
that UID until it has become another program the payload can't be traced, and no descriptor but its
own three and that socket is open in it.
"""

from __future__ import annotations

import array
import os
import resource
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from errno import EACCES, ENOENT, ENOTDIR, ESRCH, errorcode
from fcntl import F_GETFL, fcntl
from pathlib import Path
from typing import NoReturn

from serai.runtime import namespaces
from serai.runtime.errors import FAILED, NOT_FOUND, TIMEOUT, SeraiError
from serai.runtime.policy import Limits

SOCKET, PIDFD, CGROUP = 3, 4, 5
"""The descriptors that the children have beside the payload's own three, until it is executed."""

PID, TERMINAL, ERROR = b"P", b"T", b"E"
STAGES = ("prepare", "cgroup", "fork", "join", "drop", "terminal", "cwd", "filter", "exec")


class EnterError(SeraiError):
    """A payload did not start. ``stage`` says where it failed, ``errno`` why (0: no errno).

    At the stage ``exec`` a shell would exit with 127 for ENOENT and with 126 otherwise.
    """

    def __init__(self, stage: str, message: str, errno: int = 0, code: int = FAILED) -> None:
        super().__init__(message, code=code)
        self.stage = stage
        self.errno = errno


@dataclass(frozen=True)
class Target:
    """The session to enter.

    ``pid`` is the VM's PID of the sandbox's PID 1 (the child of the unit's main process),
    ``cgroup`` the folder in the cgroup file system to run in, v2 or a hierarchy of v1 (None: where
    the daemon is).
    """

    pid: int
    uid: int
    gid: int
    cgroup: Path | None = None


@dataclass(frozen=True)
class Entered:
    """A running payload; the caller owns both descriptors and must reap ``pid``.

    ``pid`` is a direct child of the calling process: wait with ``waitid(P_PIDFD, pidfd, WEXITED)``.
    ``pty`` is the terminal's master if one was asked for.
    """

    pid: int
    pidfd: int
    pty: int | None


@dataclass(frozen=True)
class _Plan:
    """Everything the two children need, prepared by the parent, where an error is cheap."""

    target: Target
    unified: Path | None
    argv: list[str]
    candidates: list[str]
    env: dict[str, str]
    cwd: str
    limits: tuple[tuple[int, int], ...]
    filters: tuple[namespaces.Filter, ...]
    tty: bool
    oom_score_adj: bytes
    last_capability: int


def load_filters(folder: Path) -> tuple[bytes, ...]:
    """The filters ``baseline`` and ``unix-block`` of ``folder``, one an architecture.

    Raises SeraiError if one is missing or damaged: a payload never starts without both.
    """
    filters = []
    for name in ("baseline", "unix-block"):
        path = folder / f"{name}.bpf"
        try:
            program = path.read_bytes()
            namespaces.Filter(program)
        except (OSError, ValueError) as error:
            raise SeraiError(
                f"cannot use the seccomp filter {path}: {error}",
                hint=f"write it again: python3 -m serai.runtime.seccomp {folder.parent}",
            ) from error
        filters.append(program)
    return tuple(filters)


def enter(
    target: Target,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    stdio: tuple[int, int, int] | None,
    *,
    limits: Limits,
    filters: Sequence[bytes],
    tty: bool = False,
    timeout: float = 10.0,
) -> Entered:
    """Run ``argv`` in the session ``target``, as its user, and return once it has been executed.

    ``argv[0]`` without a slash is looked up in ``env["PATH"]`` inside the sandbox. ``cwd`` is a
    path inside. ``stdio`` are the three descriptors for the payload (the caller keeps its own);
    a terminal, a folder, a block device or an O_PATH descriptor among them is refused, and with
    ``tty`` it must be None, because the terminal comes from the sandbox's own devpts.

    Raises EnterError if the payload could not be executed or if that took more than ``timeout``
    seconds (a frozen session, for instance: thaw it first); nothing is left running then.
    """
    if tty == (stdio is not None):
        raise ValueError("either a terminal or three descriptors")
    for fd in stdio or ():
        _check_stdio(fd)
    with ExitStack() as stack:
        pidfd = _open_target(target)
        stack.callback(os.close, pidfd)
        plan = _plan(target, argv, env, cwd, limits=limits, filters=filters, tty=tty)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        stack.enter_context(theirs)
        if stdio is None:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, null)
            stdio = (null, null, null)
        fds = [*stdio, theirs.fileno(), pidfd]
        if plan.unified:
            fds.append(os.open(plan.unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, fds[CGROUP])
        usher = _fork_usher(plan, fds)
        theirs.close()
        return _await(ours, usher, argv[0], time.monotonic() + timeout)


def _check_stdio(fd: int) -> None:
    """Refuse what would be a way out: a folder (openat) or the caller's terminal (TIOCSTI)."""
    kind = os.fstat(fd).st_mode
    if fcntl(fd, F_GETFL) & getattr(os, "O_PATH", 0):
        raise EnterError("prepare", "an O_PATH descriptor can't be a payload's input or output")
    if stat.S_ISDIR(kind) or stat.S_ISBLK(kind):
        raise EnterError("prepare", "a folder or a disk can't be a payload's input or output")
    if stat.S_ISCHR(kind) and os.isatty(fd):
        raise EnterError("prepare", "a terminal is never handed to a payload: relay it or use tty")


def _open_target(target: Target) -> int:
    """A descriptor for the sandbox's PID 1.

    Its number may have been used again: then only by a process of another user, or by one that is
    not PID 1 of a namespace, and no session can make such a namespace.
    """
    try:
        pidfd = os.pidfd_open(target.pid)
        with open(f"/proc/{target.pid}/status", "rb") as file:  # noqa: PTH123  # on the fast path
            status = file.read()
    except OSError as error:
        raise _gone(target) from error
    fields = dict(line.split(b":\t", 1) for line in status.splitlines() if b":\t" in line)
    if int(fields[b"Uid"].split()[0]) != target.uid or fields[b"NSpid"].split()[-1] != b"1":
        os.close(pidfd)
        raise _gone(target)
    return pidfd


def _gone(target: Target) -> EnterError:
    message = f"no session of user {target.uid} runs as process {target.pid}"
    return EnterError("prepare", message, ESRCH, code=NOT_FOUND)


def _plan(
    target: Target,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    limits: Limits,
    filters: Sequence[bytes],
    tty: bool,
) -> _Plan:
    if not argv or not argv[0] or any("\0" in word for word in (*argv, *env, *env.values(), cwd)):
        raise EnterError("prepare", "a command without a name, or with a NUL in it")
    folders = env.get("PATH", "/usr/bin:/bin").split(":")
    lookup = [f"{folder or '.'}/{argv[0]}" for folder in folders]
    try:
        oom_score_adj = Path(f"/proc/{target.pid}/oom_score_adj").read_bytes()
    except OSError as error:
        raise _gone(target) from error
    cgroup = target.cgroup
    return _Plan(
        target=target,
        unified=cgroup if cgroup and (cgroup / "cgroup.controllers").exists() else None,
        argv=list(argv),
        candidates=[argv[0]] if "/" in argv[0] else lookup,
        env=dict(env),
        cwd=cwd,
        limits=(
            (resource.RLIMIT_NOFILE, limits.nofile),
            (resource.RLIMIT_NPROC, limits.nproc),
            (resource.RLIMIT_STACK, limits.stack),
            (resource.RLIMIT_MEMLOCK, limits.memlock),
            (resource.RLIMIT_CORE, limits.core),
        ),
        filters=tuple(namespaces.Filter(program) for program in filters),
        tty=tty,
        oom_score_adj=oom_score_adj,
        last_capability=namespaces.last_capability(),
    )


def _fork_usher(plan: _Plan, fds: Sequence[int]) -> int:
    # A signal that came between fork and exec would run the daemon's handler in the child.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _usher(plan, fds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _usher(plan: _Plan, fds: Sequence[int]) -> NoReturn:
    """In the first child: root, the VM's PID namespace. Never returns."""
    report = fds[SOCKET]
    stage = "prepare"
    try:
        namespaces.set_undumpable()
        namespaces.move(zip(fds, range(len(fds)), strict=True), above=max(64, *fds))
        report = SOCKET
        namespaces.close_from(len(fds))
        os.umask(0o022)
        os.setgroups([])
        for kind, value in plan.limits:
            resource.setrlimit(kind, (value, value))
        namespaces.new_keyring()  # as root, since a user's number of keys is small
        _write("/proc/self/oom_score_adj", plan.oom_score_adj)
        stage = "cgroup"
        if plan.target.cgroup and not plan.unified:
            _write(f"{plan.target.cgroup}/cgroup.procs", b"0")
        stage = "fork"
        namespaces.join(PIDFD, namespaces.PID_NAMESPACE)
        pid = namespaces.fork_sibling(CGROUP if plan.unified else None)
        if pid == 0:
            _payload(plan)
        _send(report, PID + struct.pack("=i", pid))
        os._exit(0)
    except BaseException as error:  # a child must not run the daemon's handlers
        _fail(report, stage, error)


def _payload(plan: _Plan) -> NoReturn:
    """In the second child: what inside is seen of it, but can't be touched yet. Never returns."""
    stage = "join"
    try:
        namespaces.join(PIDFD, namespaces.OTHER_NAMESPACES)
        namespaces.close_from(PIDFD)
        stage = "drop"
        os.set_inheritable(SOCKET, False)
        os.setsid()
        namespaces.default_signals()
        os.setresgid(plan.target.gid, plan.target.gid, plan.target.gid)
        os.setresuid(plan.target.uid, plan.target.uid, plan.target.uid)
        # Nobody inside could trace it before this line: it still has more capabilities than they.
        namespaces.set_undumpable()
        namespaces.drop_capabilities(plan.last_capability)
        namespaces.set_no_new_privileges()
        namespaces.confine_tracing()
        if plan.tty:
            stage = "terminal"
            _take_terminal()
        stage = "cwd"
        os.chdir(plan.cwd)
        stage = "filter"
        for program in plan.filters:
            program.install()
        stage = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute(plan)
    except BaseException as error:
        _fail(SOCKET, stage, error)


def _take_terminal() -> None:
    master, slave = namespaces.open_terminal()
    namespaces.take_terminal(slave)
    for number in range(3):
        os.dup2(slave, number)
    _send(SOCKET, TERMINAL, master)
    os.close(master)
    os.close(slave)


def _execute(plan: _Plan) -> NoReturn:
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


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _send(fd: int, message: bytes, passed: int | None = None) -> None:
    fds = [] if passed is None else [passed]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(fileno=os.dup(fd)) as end:
        end.sendmsg([message], rights)


def _fail(fd: int, stage: str, error: BaseException) -> NoReturn:
    try:
        errno = error.errno if isinstance(error, OSError) and error.errno else 0
        text = str(error).encode(errors="replace")[:1000]
        _send(fd, ERROR + struct.pack("=Bi", STAGES.index(stage), errno) + text)
    finally:
        os._exit(127)


def _await(ours: socket.socket, usher: int, command: str, deadline: float) -> Entered:
    """Read what the children report until their ends of the socket are closed."""
    pid, pty, failure = 0, None, None
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    try:
        while True:
            if not poll.poll(max(0, (deadline - time.monotonic()) * 1000)):
                late = f"{command} could not be started in time"
                raise EnterError("exec" if pid else "join", late, code=TIMEOUT)
            message, fds, _, _ = socket.recv_fds(ours, 2048, 1)
            pty = fds[0] if fds else pty
            if not message:
                break
            if message[:1] == PID:
                (pid,) = struct.unpack_from("=i", message, 1)
            elif message[:1] == ERROR:
                failure = _failure(command, message)
        if failure or not pid:
            raise failure or EnterError("join", f"{command}: killed before it was started")
        return Entered(pid, os.pidfd_open(pid), pty)
    except BaseException:
        if pid:
            _kill(pid)
        if pty is not None:
            os.close(pty)
        raise
    finally:
        _kill(usher)


def _failure(command: str, message: bytes) -> EnterError:
    number, errno = struct.unpack_from("=Bi", message, 1)
    stage, text = STAGES[number], message[6:].decode(errors="replace")
    why = f"{os.strerror(errno)} ({errorcode.get(errno, errno)})" if errno else text
    what = {
        "exec": f"cannot execute {command}",
        "cwd": f"cannot change to the working folder of {command}",
    }.get(stage, f"cannot start {command} ({stage})")
    return EnterError(stage, f"{what}: {why}", errno)


def _kill(pid: int) -> None:
    """Kill and reap a child that has nothing more to do. (One that has ended is only reaped.)"""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
