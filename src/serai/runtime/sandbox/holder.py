"""The holder: the parent of a session's jobs, which outlives the daemon.

The problem. Who reads a command's output and learns its exit status must live as long as the
command. sessiond does not: it can be killed and upgraded while sessions run.

The idea. Each session that has jobs has one small process beside its sandbox, in the session's
cgroup. It starts payloads as the usher does, so they are its children. It writes what they write
into their logs (``job_log``), and how they ended into the file ``status``. sessiond reads both
files and remembers nothing. Only what changes a job goes through the holder's socket: start,
signal, input.

A job is alive as long as its log is locked: flock(2). sessiond locks the file and hands it over,
so the lock lasts until the holder closes the file, however it ends. The status is written before.

The holder ends with its session. systemd's SIGTERM tells it to; it waits for the jobs, which end
with their sandbox, so that their last bytes are kept.

A message's first byte says what is asked. START comes with descriptors: the request, the log, the
job's directory, the output to read, the input to write, and the usher's. SIGNAL has a number and
the job's id, the others the id, and HEAR the descriptor at which the kernel asks about refused
calls (``refusals``). The answer is one byte; INPUT's comes with a descriptor.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import NamedTuple

if __name__ == "__main__":  # started by its path, so that Python finds nothing but this package
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))  # noqa: PTH120

from serai.common import linux, stdio
from serai.runtime.sandbox import cgroup_files, job_log, reaper, refusals, usher

PROTOCOL = 1
"""Part of the socket's name: an upgraded sessiond starts a holder that it can speak with.

With another number it does not reach the jobs that run already. What is only added needs none: to
a message that it does not know a holder answers UNKNOWN.
"""

START, SIGNAL, INPUT, END_INPUT, HEAR = b"S", b"K", b"I", b"E", b"H"
DONE, UNKNOWN = b"1", b"0"
OWN = 5
"""How many of START's descriptors are the holder's."""
GRACE = 2.0
PATIENCE = 10.0
"""Seconds that what a job left behind has to end."""
SWEEP = 0.1
LONGEST_PAUSE = 3600.0
"""Seconds. epoll_wait(2) takes no more than 24 days, and a job's time may be any number."""
BEGUN = "begun"
ROOM = 1024
"""Bytes that a status takes at most. They are taken before the job runs: see ``begin``."""
TIMED_OUT = 124  # as timeout(1)


class Request(NamedTuple):
    """A job to start. ``timeout`` 0 is none; ``cgroup`` is a path, '' if there is none."""

    job: str
    cgroup: str
    timeout: float
    plan: tuple[object, ...]


class Held:
    """A job that runs, or has ended and is not cleared away."""

    def __init__(self, request: Request, pid: int, fds: list[int]) -> None:
        self.id = request.job
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.log, self.folder, self.output, self.input = fds
        self.cgroup = request.cgroup
        self.written = 0
        self.lost = 0
        # In the session: a job's own cgroup counts nothing, and is removed before the job's end.
        self.killed = self._out_of_memory()
        self.ends = time.monotonic() + request.timeout if request.timeout else 0.0
        self.kills = self.gives_up = 0.0
        self.timed_out = False
        self.ended: int | None = None  # as waitpid(2) has it
        self.left = 0
        self.listener = -1
        self.hears = 0.0  # when it looks at the listener next; 0: as soon as something is there
        self.refused = refusals.Refused()
        os.set_blocking(self.output, False)

    def read(self) -> bool:
        """Take what it has written; false at the end."""
        try:
            data = os.read(self.output, job_log.CHUNK)
        except BlockingIOError:
            return True
        try:
            self.written = job_log.append(self.log, self.written, data) if data else self.written
        except OSError:  # a full disk does not stop the job
            self.lost += len(data)
        return bool(data)

    def refuse(self) -> bool:
        """Answer a question about a call; false if nobody is left to ask one."""
        start = time.monotonic()
        program = refusals.refuse(self.listener)
        if program:
            self.refused.note(program)
        self.hears = refusals.pause(start)
        return program is not None

    def tell(self, number: int) -> None:
        """Send a signal to its process group; not reaped yet, its PID means nothing else."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                leads = os.getpgid(self.pid) == self.pid
                (os.killpg if leads else os.kill)(self.pid, number)

    def clear(self) -> bool:
        """Kill what it left running; whether nothing is left."""
        if not self.cgroup:
            return True
        cgroup_files.kill(self.cgroup)
        try:
            os.rmdir(self.cgroup)  # noqa: PTH106
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        return True

    def _out_of_memory(self) -> int:
        return cgroup_files.out_of_memory(os.path.dirname(self.cgroup))  # noqa: PTH120

    def close(self, *, stopping: bool) -> None:
        """Write down how it ended, and let go of it."""
        status = signal.SIGKILL if self.ended is None else self.ended
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = TIMED_OUT if self.timed_out else 128 + number if number else os.WEXITSTATUS(status)
        memory = self._out_of_memory() > self.killed
        reason = (
            ("timed out" if self.timed_out else "")
            or ("session stopped" if stopping else "")
            or ("out of memory" if memory and number else "")
            or ("signal" if number else "exit")
        )
        text = (
            f'{{"status":{code},"signal":{number or "null"},"reason":"{reason}",'
            f'"ended_at":{time.time()},"left":{self.left},"lost":{self.lost},'
            f'"refused":{self.refused.json()}}}\n'
        )
        with contextlib.suppress(OSError):  # its directory may be removed already
            file = os.open(BEGUN, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.folder)
            try:
                os.write(file, text.encode().ljust(ROOM))
            finally:
                os.close(file)
            os.rename(BEGUN, "status", src_dir_fd=self.folder, dst_dir_fd=self.folder)
        own = {self.pidfd, self.folder, self.output, self.input, self.log, self.listener}
        for descriptor in own - {-1}:
            os.close(descriptor)


def begin(folder: int) -> None:
    """Note that a job may run from here on; before, and without its log's lock, it has not.

    The file becomes its status, so that a disk that is full by then does not keep that back.
    Raises OSError.
    """
    file = os.open(BEGUN, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.write(file, bytes(ROOM))
    finally:
        os.close(file)


class Holder:
    """Serves one session until that ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._jobs: dict[str, Held] = {}
        self._ends: dict[int, Held] = {}  # by the descriptor that tells of it
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._stopping = False
        self._sweep_at = 0.0
        self._woken, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        self._poll.register(self._woken, select.EPOLLIN)

    def serve(self) -> None:
        """Serve until the session ends."""
        while not self._stopping or self._jobs:
            for descriptor, _ in self._poll.poll(self._pause()):
                self._ready(descriptor)
            self._look_after()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _pause(self) -> float | None:
        """Seconds until something is due, if anything is."""
        now = time.monotonic()
        jobs = self._jobs.values()
        due = [each for job in jobs for each in (job.ends, job.kills, job.hears) if each]
        due += [self._sweep_at] if self._sweep_at else []
        if any(job.gives_up for job in self._jobs.values()):
            due.append(now + 0.01)
        return min(max(min(due) - now, 0.0), LONGEST_PAUSE) if due else None

    def _ready(self, descriptor: int) -> None:
        if descriptor == self._listener.fileno():
            with contextlib.suppress(OSError):  # it is gone already, or there is no descriptor
                client, _ = self._listener.accept()
                self._clients[client.fileno()] = client
                self._poll.register(client.fileno(), select.EPOLLIN)
        elif descriptor in self._clients:
            self._asked(self._clients[descriptor])
        elif descriptor == self._woken:
            os.read(descriptor, 4096)
            self._sweep_soon()
        elif (job := self._ends.get(descriptor)) is not None:
            if descriptor == job.pidfd:
                self._ended(job)
            elif descriptor == job.listener:
                self._hear(job)
            elif not job.read():
                self._forget(job.output)
                os.close(job.output)
                job.output = -1

    def _asked(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            message, fds, _, _ = socket.recv_fds(client, 256, OWN + 6)
            if not message:
                del self._clients[client.fileno()]
                self._poll.unregister(client.fileno())
                client.close()
            elif message[:1] == START:
                self._start(fds)
            else:
                self._answer(client, message, fds)
        except OSError:  # the client is gone
            pass
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def _answer(self, client: socket.socket, message: bytes, fds: list[int]) -> None:
        offset = 2 if message[:1] == SIGNAL else 1
        job = self._jobs.get(message[offset:].decode())
        if job is None:
            client.send(UNKNOWN)
        elif message[:1] == SIGNAL:
            job.tell(message[1])
            client.send(DONE)
        elif message[:1] == HEAR and fds and job.listener < 0:
            job.listener = os.dup(fds[0])
            self._ends[job.listener] = job
            self._poll.register(job.listener, select.EPOLLIN)
            client.send(DONE)
        elif message[:1] == INPUT and job.input >= 0:
            socket.send_fds(client, [DONE], [job.input])
        elif message[:1] == END_INPUT and job.input >= 0:
            os.close(job.input)
            job.input = -1
            client.send(DONE)
        else:
            client.send(UNKNOWN)

    def _start(self, fds: list[int]) -> None:
        """Start a payload as the usher does, but as a child of this process."""
        request = Request(*_loaded(fds[0]))
        begin(fds[2])
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            child = os.fork()  # which fails if the session has all the tasks that it may have
            if child == 0:
                _admit(request, fds[OWN:], writing)
            os.close(writing)
            writing = -1
            raw = os.read(reading, 4)
        finally:
            for descriptor in {reading, writing} - {-1}:
                os.close(descriptor)
        os.waitpid(child, 0)
        if len(raw) < 4 or not (pid := struct.unpack("=i", raw)[0]):  # noqa: PLR2004
            return  # the caller was told why, on the usher's socket
        own = [os.dup(each) for each in fds[1:OWN]]
        if os.fstat(own[3]).st_mode & 0o170000 != 0o010000:  # noqa: PLR2004  # no pipe: no input
            os.close(own[3])
            own[3] = -1
        job = Held(request, pid, own)
        self._jobs[job.id] = job
        for descriptor in (job.pidfd, job.output):
            self._ends[descriptor] = job
            self._poll.register(descriptor, select.EPOLLIN)
        self._sweep_soon()  # nobody tells again of what ended before

    def _ended(self, job: Held) -> None:
        reaper.take_threads(job.pid)
        job.ended = reaper.take(job.pid)
        job.left = len(cgroup_files.members(job.cgroup))
        self._forget(job.pidfd)
        job.ends = job.kills = 0.0
        job.gives_up = time.monotonic() + PATIENCE

    def _hear(self, job: Held) -> None:
        """A call of the job's is refused. However often that is, most of the time is others'."""
        if job.refuse():
            self._poll.modify(job.listener, 0)
        else:
            self._forget(job.listener)
            os.close(job.listener)
            job.listener, job.hears = -1, 0.0

    def _look_after(self) -> None:
        """What is due: time limits, and jobs of which nothing runs and all output is read."""
        now = time.monotonic()
        if self._sweep_at and now >= self._sweep_at:
            self._sweep()
        for job in list(self._jobs.values()):
            if job.hears and now >= job.hears:
                job.hears = 0.0
                self._poll.modify(job.listener, select.EPOLLIN)
            if job.ends and now >= job.ends:
                job.timed_out, job.ends, job.kills = True, 0.0, now + GRACE
                job.tell(signal.SIGTERM)
            if job.kills and now >= job.kills:
                job.kills = 0.0
                job.clear()
                job.tell(signal.SIGKILL)
            cleared = bool(job.gives_up) and job.clear()
            if (cleared and job.output < 0) or (job.gives_up and now > job.gives_up):
                for descriptor in {job.output, job.listener} - {-1}:
                    self._forget(descriptor)
                del self._jobs[job.id]
                job.close(stopping=self._stopping)

    def _sweep_soon(self) -> None:
        """A child or one of its threads has ended. Many ends make one sweep."""
        self._sweep_at = self._sweep_at or time.monotonic() + SWEEP

    def _sweep(self) -> None:
        """Take ended threads away, which a payload may have made this process's: see ``reaper``."""
        self._sweep_at = 0.0
        for job in self._jobs.values():
            if job.ended is None:
                reaper.take_threads(job.pid)

    def _forget(self, descriptor: int) -> None:
        del self._ends[descriptor]
        self._poll.unregister(descriptor)


def _admit(request: Request, fds: list[int], writing: int) -> None:
    """In a child: as the usher's own process."""
    try:
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        usher.hide()
        pid = usher.admit(usher.Plan(*request.plan), fds)  # type: ignore[arg-type]  # as marshalled
        os.write(writing, struct.pack("=i", pid))
    finally:
        os._exit(0)


def _loaded(file: int) -> tuple[str, str, float, tuple[object, ...]]:
    with open(os.dup(file), "rb") as reading:  # noqa: PTH123  # a descriptor
        reading.seek(0)
        loaded: tuple[str, str, float, tuple[object, ...]] = marshal.load(reading)  # noqa: S302  # from the daemon
    return loaded


if __name__ == "__main__":
    stdio.open_closed()
    linux.set_undumpable()
    os.chdir("/")
    if sys.argv[2]:
        # By itself, and before it serves: nothing of a job is ever in the daemon's cgroup.
        with open(f"{sys.argv[2]}/cgroup.procs", "w") as own:  # noqa: PTH123
            own.write("0")
    Holder(socket.socket(fileno=int(sys.argv[1]))).serve()
