"""Start a payload in a running session from outside.

No service inside the sandbox starts commands: such a service would be privileged, or its protocol
could be attacked. Instead the daemon enters the session from outside, as nsenter(1) does, and gives
up every right on the way. ``usher`` has the steps between clone and exec and explains their order.
This module has what comes before and after.

Before. ``begin`` checks the command and the three descriptors. It refuses descriptors that would
be a way out of the sandbox, such as a directory. It opens the sandbox's PID 1 as a pidfd, which
stays right even if the number is used again. It puts all that the payload needs into a Plan.

After. The payload reports on a socket: its PID, its terminal if it has one, the listener of a
filter that asks, and an error if it fails. Exec closes the socket. So ``Arrival`` reads until the
end of the socket: no error means that the command runs. A payload can be stopped half way, for
example by the freezer. Then it is killed after ``timeout`` seconds, and nothing is left running.
The daemon does not wait there (``begin``).

Everything inside is hostile and has the payload's UID. Between the moment when the payload gets
that UID and exec, it cannot be traced, and only its own three descriptors and that socket are open
in it.
"""

from __future__ import annotations

import marshal
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from errno import ESRCH, errorcode
from pathlib import Path
from typing import Protocol

from serai.common import linux
from serai.common import stdio as stdio_rules
from serai.common.errors import FAILED, NOT_FOUND, TIMEOUT, SeraiError
from serai.common.sandboxes import SOCKETS, STRICT
from serai.runtime.sandbox import usher
from serai.runtime.settings import Limits

FILTERS = {STRICT: ("baseline", "unix-block"), SOCKETS: ("baseline",)}
"""Which filters a payload gets in which sandbox."""
KILLED = 2.0  # seconds in which SIGKILL ends a process, unless it waits for a disk


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
    ``cgroup`` the directory in the cgroup file system to run in, of v2 or of a hierarchy of v1
    (None: the daemon's own).
    """

    pid: int
    uid: int
    gid: int
    cgroup: Path | None = None


@dataclass(frozen=True)
class Entered:
    """A running payload; the caller owns both descriptors and must reap ``pid``.

    Where ``pidfd`` is -1 it is another process's child, and that one's to reap.

    ``pid`` is a direct child of the calling process: wait with ``waitid(P_PIDFD, pidfd, WEXITED)``.
    ``pty`` is the terminal's master if one was asked for. At ``listener`` the kernel asks about
    refused calls (``refusals``), if the sandbox has any.
    """

    pid: int
    pidfd: int
    pty: int | None
    listener: int | None = None


class Door:
    """An usher that keeps running, so that ``begin`` need not fork its large caller.

    A context manager. It starts the usher again if it has died. Any thread may use it.
    """

    ours = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", usher.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
            )

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._process.wait()

    def admit(self, plan: usher.Plan, fds: Sequence[int]) -> None:
        """As usher.admit()."""
        with open(os.memfd_create("plan"), "wb") as file:  # noqa: PTH123  # a descriptor
            file.write(marshal.dumps(tuple(plan)))
            file.flush()
            with self._lock:
                try:
                    socket.send_fds(self._end, [b"P"], [file.fileno(), *fds])
                except (BrokenPipeError, ConnectionResetError):
                    self.__exit__()
                    self._start()
                    socket.send_fds(self._end, [b"P"], [file.fileno(), *fds])


class Admits(Protocol):
    """A door, or what is like one. ``ours``: what enters is a child of this process."""

    @property
    def ours(self) -> bool: ...

    def admit(self, plan: usher.Plan, fds: Sequence[int]) -> None:
        """As usher.admit(), in another process. Raises OSError."""


class Arrival:
    """A payload on its way to exec: what it and the usher report until their sockets are closed.

    ``socket`` is readable when there is something for ``read``. ``close`` comes last, always.
    """

    def __init__(self, end: socket.socket, command: str, *, ours: bool = True) -> None:
        """Only of our own child does a PID stay right until we open it."""
        self.socket = end
        self._command = command
        self._ours = ours
        self._pid = 0
        self._pidfd: int | None = None
        self._pty: int | None = None
        self._listener: int | None = None
        self._failure: EnterError | None = None
        end.setblocking(False)

    def read(self) -> bool:
        """Take what is there, without waiting; whether that was the end."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self.socket, 2048, 1)
            except BlockingIOError:
                return False
            if not message:
                return True
            if message[:1] == usher.TERMINAL:
                self._pty = fds[0]
            elif message[:1] == usher.LISTENER:
                self._listener = fds[0]
            elif message[:1] == usher.PID:
                (self._pid,) = struct.unpack_from("=i", message, 1)
                self._pidfd = os.pidfd_open(self._pid) if self._ours else None
            elif message[:1] == usher.ERROR:
                self._failure = _failure(self._command, message)

    def late(self) -> EnterError:
        """What to raise if it takes too long."""
        text = f"{self._command} could not be started in time, and has not run: try again"
        return EnterError("exec" if self._pid else "join", text, code=TIMEOUT)

    def entered(self) -> Entered:
        """The payload, which is the caller's from now on. Raises EnterError if there is none."""
        if self._failure or not self._pid:
            join = EnterError("join", f"{self._command}: killed before it was started")
            raise self._failure or join
        pidfd = -1 if self._pidfd is None else self._pidfd
        result = Entered(self._pid, pidfd, self._pty, self._listener)
        self._pidfd = self._pty = self._listener = None
        return result

    def close(self) -> Entered | None:
        """Kill what has not ``entered``. The caller owns what is returned and must reap it."""
        self.socket.close()
        for descriptor in (self._pty, self._listener):
            if descriptor is not None:
                os.close(descriptor)
        if self._pidfd is None:
            return None
        os.kill(self._pid, signal.SIGKILL)  # our child, not reaped yet
        return Entered(self._pid, self._pidfd, None)


def load_filters(folder: Path, sandbox: str) -> tuple[bytes, ...]:
    """A sandbox's filters for payloads, in ``folder``, the directory of an architecture.

    Raises SeraiError if one is missing or damaged: a payload never starts without all of them.
    """
    filters = []
    for name in FILTERS[sandbox]:
        path = folder / f"{name}.bpf"
        try:
            program = path.read_bytes()
            linux.Filter(program)
        except (OSError, ValueError) as error:
            raise SeraiError(
                f"cannot use the seccomp filter {path}: {error}",
                hint=f"write it again: python3 -m serai.runtime.sandbox.seccomp {folder.parent}",
            ) from error
        filters.append(program)
    return tuple(filters)


def begin(
    target: Target,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    stdio: tuple[int, int, int] | None,
    *,
    limits: Limits,
    filters: Sequence[bytes],
    tty: tuple[int, int] | None = None,
    door: Admits,
) -> Arrival:
    """Send ``argv`` into the session ``target``, as its user, without waiting for it.

    ``argv[0]`` without a slash is looked up in ``env["PATH"]`` inside the sandbox. ``cwd`` is a
    path inside. ``stdio`` are the three descriptors for the payload (the caller keeps its own);
    only what ``stdio.may_be_handed_in`` lets through is accepted. With
    ``tty``, rows and columns, it must be None: the terminal comes from the sandbox's own devpts.

    Raises EnterError if the session or the command cannot be what was asked for. What fails
    later is known from the Arrival.
    """
    if (tty is None) == (stdio is None):
        raise ValueError("either a terminal or three descriptors")
    for fd in stdio or ():
        _check_stdio(fd)
        stdio_rules.let_reopen(fd, target.gid)
    with ExitStack() as stack:
        pidfd = open_target(target)
        stack.callback(os.close, pidfd)
        plan = _plan(target, argv, env, cwd, limits=limits, filters=filters, tty=tty)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        failed = stack.enter_context(ExitStack())
        failed.callback(ours.close)
        stack.enter_context(theirs)
        if stdio is None:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, null)
            stdio = (null, null, null)
        fds = [*stdio, theirs.fileno(), pidfd]
        if target.cgroup:
            fds.append(os.open(target.cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        door.admit(plan, fds)
        failed.pop_all()
        return Arrival(ours, argv[0], ours=door.ours)


def _check_stdio(fd: int) -> None:
    """Refuse a way out: a directory (openat), a disk, the caller's terminal (TIOCSTI), a socket."""
    if not stdio_rules.may_be_handed_in(fd):
        raise EnterError(
            "prepare",
            "only a pipe, /dev/null or a file opened to be read can be a payload's input or output:"
            " relay all else, or use tty",
        )


def open_target(target: Target) -> int:
    """A descriptor for the sandbox's PID 1.

    The number may belong to a new process by now. That process has another user, or is not PID 1
    of a namespace: no session can make such a namespace.
    """
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError as error:
        raise _gone(target) from error
    try:
        status = Path(f"/proc/{target.pid}/status").read_bytes()
        fields = dict(line.split(b":\t", 1) for line in status.splitlines() if b":\t" in line)
        if int(fields[b"Uid"].split()[0]) != target.uid or fields[b"NSpid"].split()[-1] != b"1":
            raise _gone(target)
    except OSError as error:
        os.close(pidfd)
        raise _gone(target) from error
    except EnterError:
        os.close(pidfd)
        raise
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
    tty: tuple[int, int] | None,
) -> usher.Plan:
    if not argv or not argv[0] or any("\0" in word for word in (*argv, *env, *env.values(), cwd)):
        raise EnterError("prepare", "a command without a name, or with a NUL in it")
    folders = env.get("PATH", "/usr/bin:/bin").split(":")
    lookup = [f"{folder or '.'}/{argv[0]}" for folder in folders]
    try:
        oom_score_adj = Path(f"/proc/{target.pid}/oom_score_adj").read_bytes()
    except OSError as error:
        raise _gone(target) from error
    unified = target.cgroup and (target.cgroup / "cgroup.controllers").exists()
    return usher.Plan(
        uid=target.uid,
        gid=target.gid,
        move=target.cgroup is not None and not unified,
        argv=list(argv),
        candidates=[argv[0]] if "/" in argv[0] else lookup,
        env=dict(env),
        cwd=cwd,
        limits=[
            (resource.RLIMIT_NOFILE, limits.nofile),
            (resource.RLIMIT_NPROC, limits.nproc),
            (resource.RLIMIT_STACK, limits.stack),
            (resource.RLIMIT_MEMLOCK, limits.memlock),
            (resource.RLIMIT_CORE, limits.core),
        ],
        filters=list(filters),
        tty=tty,
        oom_score_adj=oom_score_adj,
        last_capability=linux.last_capability(),
    )


def _failure(command: str, message: bytes) -> EnterError:
    number, errno = struct.unpack_from("=Bi", message, 1)
    stage, text = usher.STAGES[number], message[6:].decode(errors="replace")
    why = f"{os.strerror(errno)} ({errorcode.get(errno, errno)})" if errno else text
    what = {
        "exec": f"cannot execute {command}",
        "cwd": f"cannot change to the working directory of {command}",
    }.get(stage, f"cannot start {command} ({stage})")
    return EnterError(stage, f"{what}: {why}", errno)
