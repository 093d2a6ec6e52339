"""A real sandbox for a test: bubblewrap started as a fresh user, as the session's unit does it."""

from __future__ import annotations

import ctypes
import io
import os
import platform
import resource
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from serai.common import linux
from serai.runtime.sandbox import bwrap, enter, reaper, refusals, usher
from serai.runtime.settings import Limits, SessionSettings

ROOT = Path(__file__).resolve().parents[2]
BRIDGE = ROOT / "src/serai/install/programs/bridge"
DEADLINE = 20.0
HEARING = "answers the kernel"
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37


@dataclass(frozen=True)
class Result:
    """What a payload did. ``status`` is negative if a signal ended it, as in subprocess."""

    status: int
    output: str


class Forks(enter.Door):
    """A door that forks this very process, so that a test can patch what the usher does."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def admit(self, plan: usher.Plan, fds: Sequence[int]) -> None:
        # A signal before the child has dispositions of its own would run this process's handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    linux.set_undumpable()
                    usher.hide()
                    usher.admit(plan, fds)
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.waitpid(pid, 0)


@dataclass(frozen=True)
class Room:
    """A running sandbox and the filters its payloads get. ``hears``: refused calls are answered."""

    session: bwrap.Session
    settings: SessionSettings
    outer: int
    target: enter.Target
    filters: Sequence[bytes] = field(repr=False)
    door: enter.Door = field(default_factory=Forks)
    hears: bool = True

    def start(
        self,
        argv: Sequence[str],
        stdio: tuple[int, int, int] | None,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        filters: Sequence[bytes] | None = None,
        target: enter.Target | None = None,
        timeout: float = DEADLINE,
    ) -> enter.Entered:
        """Run ``argv`` and return once it has been executed; an EnterError leaves nothing."""
        arrival = enter.begin(
            target or self.target,
            argv,
            {**bwrap.environment(self.settings, self.session), **(env or {})},
            cwd or str(self.session.home),
            stdio,
            limits=self.settings.limits,
            filters=self.filters if filters is None else filters,
            tty=(24, 80) if stdio is None else None,
            door=self.door,
        )
        end = time.monotonic() + timeout
        try:
            while not arrival.read():
                left = max(0, end - time.monotonic())
                if not select.select([arrival.socket], [], [], left)[0]:
                    raise arrival.late()
            entered = arrival.entered()
            if entered.listener is not None and self.hears:
                hearing = [entered.listener]
                threading.Thread(target=_refuse, name=HEARING, args=hearing, daemon=True).start()
            elif entered.listener is not None:
                os.close(entered.listener)
            return entered
        finally:
            if stray := arrival.close():
                select.select([stray.pidfd], [], [], DEADLINE)
                os.close(stray.pidfd)
                reaper.take(stray.pid)

    def run(
        self,
        argv: Sequence[str],
        text: str = "",
        *,
        timeout: float = 60.0,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        filters: Sequence[bytes] | None = None,
    ) -> Result:
        """Run a command to its end; what it writes to either output is one text."""
        read, write = os.pipe()
        with tempfile.NamedTemporaryFile() as named, open(read, "rb", buffering=0) as written:  # noqa: PTH123
            named.write(text.encode())
            named.flush()
            given = os.open(named.name, os.O_RDONLY)
            try:
                fds = (given, write, write)
                entered = self.start(argv, fds, cwd=cwd, env=env, filters=filters)
            finally:
                os.close(given)
                os.close(write)
            output, ended = bytearray(), threading.Event()
            reader = threading.Thread(target=_collect, args=(written, output, ended))
            reader.start()
            try:
                status = reap(entered, timeout)
            finally:
                ended.set()
                reader.join()
            return Result(status, output.decode(errors="replace"))

    def python(self, code: str, filters: Sequence[bytes] | None = None) -> Result:
        return self.run(["/usr/bin/python3", "-c", code], filters=filters)


def _refuse(listener: int) -> None:
    """Answer the kernel as the daemon does, until no process with the filter is left."""
    with open(listener, "rb", buffering=0):  # a descriptor
        while refusals.refuse(listener) is not None:
            select.select([listener], [], [])


def heard_out() -> None:
    """Wait until nobody hears any more of payloads that have ended: that takes a descriptor."""
    for each in threading.enumerate():
        if each.name == HEARING:
            each.join(DEADLINE)


def _collect(written: io.FileIO, output: bytearray, ended: threading.Event) -> None:
    """Read all that there is when the payload has ended; what it left running may hold the pipe."""
    last = False
    while not last:
        last = ended.is_set()
        while select.select([written], [], [], 0 if last else 0.02)[0]:
            if not (data := written.read(65536)):
                return
            output += data


def reap(entered: enter.Entered, timeout: float = 60.0) -> int:
    """Wait for a payload, kill it if it takes too long, and close its descriptor."""
    try:
        ended, _, _ = select.select([entered.pidfd], [], [], timeout)
        if not ended:
            os.kill(entered.pid, signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, entered.pidfd, os.WEXITED)
        assert result is not None
        assert ended, f"still running after {timeout} s"
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    finally:
        os.close(entered.pidfd)


@cache
def build_filters(baseline_without: str = "", unix_without: str = "") -> tuple[bytes, bytes]:
    """Both filters of this machine, each without a group of rules if a test wants it to fail."""
    code = (
        "import sys; from serai.runtime.sandbox import seccomp\n"
        "name, machine, without = sys.argv[1:]\n"
        "sys.stdout.buffer.write(seccomp.build(name, machine, without=[without]))"
    )
    one, two = (
        subprocess.run(
            ["/usr/bin/python3", "-c", code, name, platform.machine(), without],
            check=True,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT / "src")},
        ).stdout
        for name, without in (("baseline", baseline_without), ("unix-block", unix_without))
    )
    return one, two


def possible_settings() -> SessionSettings:
    """The default settings with no more open files than this machine's root may ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SessionSettings(limits=Limits(nofile=min(Limits.nofile, most)))


@contextmanager
def make_top() -> Iterator[Path]:
    """A folder that sessions' users may pass through, and that no sandbox shows."""
    with tempfile.TemporaryDirectory(prefix="serai-", dir="/srv") as name:
        Path(name).chmod(0o711)
        for part in ("sessions", "state", "gate", "certificates"):
            Path(name, part).mkdir(mode=0o755)
        yield Path(name)


def make_session(top: Path, name: str, uid: int) -> bwrap.Session:
    """A session's files below ``top``; its home is private, as the daemon makes it."""
    places = (top / part / name for part in ("sessions", "state", "gate", "certificates"))
    session = bwrap.Session(name, uid, uid, *places)
    state = (session.state / "users", session.state / "hints")
    own = [session.home / name for name in ("tmp", *bwrap.PINNED)]
    for folder in (*own, *state, session.gate, session.certificates):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (session.home, *own, session.gate):
        os.chown(folder, uid, uid)
    session.home.chmod(0o700)
    (session.state / "hosts").write_text(bwrap.hosts(SessionSettings()))
    if Path(bwrap.SSH_CONFIG).exists():
        (session.state / "ssh_config").write_text(bwrap.ssh_config(SessionSettings()))
    (session.state / "users/passwd").write_text(f"{name}:x:{uid}:{uid}::{session.home}:/bin/bash\n")
    (session.state / "users/group").write_text(f"{name}:x:{uid}:\n")
    return session


@contextmanager
def open_room(
    session: bwrap.Session,
    settings: SessionSettings | None = None,
    *,
    options: Sequence[str] | None = None,
    filters: tuple[bytes, bytes] | None = None,
) -> Iterator[Room]:
    """Start the sandbox and wait until both ports of the bridge are open."""
    settings = settings or possible_settings()
    baseline, unix_block = filters or build_filters()
    # The bridge must not outlive a test, even if the test machine's PID 1 reaps nobody. Afterwards
    # orphans of other tests are not this process's, which would leave them zombies.
    prctl, reaps = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(reaps), 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    args = bwrap.encode(bwrap.arguments(settings, session) if options is None else options)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as program:
        for file, data in ((given, args), (program, baseline)):
            file.write(data)
            file.seek(0)
        setpriv = ["setpriv", f"--reuid={session.uid}", f"--regid={session.gid}", "--clear-groups"]
        program_argv = ["bwrap", "--args", str(given.fileno())]
        # Without a filter only where a test wants to see what is missing.
        program_argv += ["--seccomp", str(program.fileno())] if baseline else []
        command = ["--", "/bin/bash", "--noprofile", "--norc", "-c", BRIDGE.read_text()]
        process = subprocess.Popen(
            [*setpriv, "--no-new-privs", *program_argv, *command],
            stdin=subprocess.DEVNULL,
            pass_fds=(given.fileno(), program.fileno()),
        )
    try:
        target = enter.Target(find_init(process), session.uid, session.gid)
        yield Room(session, settings, process.pid, target, (baseline, unix_block))
    finally:
        process.kill()
        process.wait()
        prctl(PR_SET_CHILD_SUBREAPER, reaps.value, 0, 0, 0)


def find_init(process: subprocess.Popen[bytes]) -> int:
    """PID 1 of the sandbox, once its bridge listens on both ports."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        assert process.poll() is None, "bubblewrap ended"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and {3128, 1080} <= listening(int(children[0])):
            return int(children[0])
        time.sleep(0.002)
    raise AssertionError("the bridge does not listen")


def listening(pid: int) -> set[int]:
    """The TCP ports that are listened on in a process's network namespace; proc_net_tcp."""
    try:
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except FileNotFoundError:  # it has ended: between the two looks, too
        return set()
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
