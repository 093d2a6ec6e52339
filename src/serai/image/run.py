"""How the build host starts child processes, but for one pipe (container/container.py).

Arguments are lists, never a shell's text. Every child gets PR_SET_PDEATHSIG (prctl(2)) through
setpriv(1), so that even ``kill -9`` of this process leaves nothing running.

What reads a disk that a guest has written is confined: to be fooled by it then gains nothing.
"""

from __future__ import annotations

import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from serai.image.errors import BuildError

# The package that brings a tool, where its name is not the tool's own.
PACKAGES = {
    "bwrap": "bubblewrap",
    "debugfs": "e2fsprogs",
    "gpgv": "gpgv",
    "mcopy": "mtools",
    "mdu": "mtools",
    "mformat": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-x86_64-static": "qemu-user-static",
    "scp": "openssh-client",
    "setpriv": "util-linux",
    "sgdisk": "gdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}

Argument = str | Path

# Bytes of a program's output that are kept: a guest's may have no end.
_CAPTURED = 64 << 20
# Of a log that a guest writes: it is cut to the second when it is larger than the first.
_LOG, _LOG_KEPT = 64 << 20, 1 << 20
_LONGEST_TOLD = 600  # characters of it in a message
# What a confined program may have: bytes in a file that it writes, in memory, seconds of CPU.
_FILE, _MEMORY, _CPU = 256 << 20, 4 << 30, 3600


def tool(name: str) -> Path:
    """Where the program is, first among what the lock file installed beside our Python.

    Raises BuildError naming the package that brings it.
    """
    found = shutil.which(name, path=search_path())
    if found is None:
        package = PACKAGES.get(name, name)
        raise BuildError(
            f"{name} is not installed",
            hint=f"run 'make setup', or install the package {package}",
        )
    return Path(found)


def run(
    argv: Sequence[Argument],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    log: Path | None = None,
    check: bool = True,
    captured: int = _CAPTURED,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output as text.

    One that says more than ``captured`` bytes is killed.

    With ``log``, stdout and stderr are appended to that file instead of being returned.
    ``env`` is added to this process's environment. ``timeout`` is in seconds.

    Raises BuildError if the program is missing, takes too long, or (with ``check``) fails; the
    message carries the last lines of what it said.
    """
    with _output(log) as output:
        process = subprocess.Popen(
            with_pdeathsig(argv),
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
        )
        with process:
            try:
                said = _exchanged(process, stdin, timeout, captured)
            except subprocess.TimeoutExpired:
                raise BuildError(
                    f"{argv[0]} did not end within {timeout:g} s",
                    hint="it hangs, or this host is too busy: try again when it is less so",
                    log=log,
                ) from None
            except _TooMuchError:
                text = f"{Path(argv[0]).name} said more than {captured >> 20} MiB and was ended"
                raise BuildError(text, log=log) from None
            finally:
                process.kill()
    out, err = map(_text, said)
    done = subprocess.CompletedProcess(argv, process.returncode, out, err)
    if check and done.returncode != 0:
        told = log.read_text(errors="replace") if log else done.stderr or done.stdout
        raise BuildError(
            f"{Path(argv[0]).name} {_ended(done.returncode)}: {last_lines(told)}", log=log
        )
    return done


def run_confined(
    argv: Sequence[Argument],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    largest: int = _FILE,
    stdin: str | None = None,
    timeout: float | None = None,
    log: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """run() for a program that reads what a guest has written: it sees /usr and these paths alone.

    ``write`` can be written and ``read`` not, even where it lies within. No file that it writes,
    the log too, gets larger than ``largest`` bytes. There is no running without bubblewrap(1).
    """
    program = tool(str(argv[0]))
    limits = [f"--fsize={largest}", f"--as={_MEMORY}", f"--cpu={_CPU}", "--core=0"]
    sandbox: list[Argument] = [tool("bwrap"), *_confinement(program, read, write), "--"]
    confined = ["prlimit", *limits, "--", *sandbox, program, *argv[1:]]
    done = run(confined, stdin=stdin, timeout=timeout, log=log, check=False)
    if done.returncode == 0:
        return done
    if log is None:
        said = done.stderr or done.stdout
    else:
        with log.open(errors="replace") as stream:
            said = stream.read(_CAPTURED)
    if said.startswith("bwrap: "):
        raise BuildError(
            f"bubblewrap cannot confine {program.name}: {last_lines(said)}",
            hint="nothing that a guest wrote is read without; allow user namespaces, or be root",
        )
    if check:
        raise BuildError(f"{program.name} {_ended(done.returncode)}: {last_lines(said)}", log=log)
    return done


@contextmanager
def bounded(*logs: Path) -> Iterator[None]:
    """Keep files that a guest makes grow small: of too large a one only the end stays.

    Who writes them must append, so that the next byte lands at the new end.
    """
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            for log in logs:
                shorten(log)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def shorten(log: Path) -> None:
    """Cut a log that is too large to its end."""
    if not log.is_file() or log.stat().st_size <= _LOG:
        return
    with log.open("r+b") as stream, log.open("ab") as end:
        stream.seek(-_LOG_KEPT, os.SEEK_END)
        kept = stream.read(_LOG_KEPT)
        stream.truncate(0)
        end.write(b"[what came before is cut off]\n" + kept)


def run_visibly(argv: Sequence[Argument], *, cwd: Path | None = None) -> int:
    """Run a program on our own terminal, and return its exit status."""
    return subprocess.run(with_pdeathsig(argv), cwd=cwd, check=False).returncode


@contextmanager
def started(
    argv: Sequence[Argument],
    *,
    log: Path,
    printed: Path | None = None,
    env: Mapping[str, str] | None = None,
    grace: float = 10,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside us; on leaving the block it is told to end, after ``grace`` s made to.

    Its stdout goes to ``log`` with its stderr, or to the file ``printed``. It gets a session of its
    own, so that a terminal's Ctrl-C reaches it only through us.
    """
    with log.open("ab") as said, (printed or log).open("ab") as output:
        process = subprocess.Popen(
            with_pdeathsig(argv),
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process, grace)


def search_path() -> str:
    """PATH with the folder of our own Python in front, where the lock file's programs are."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


def with_pdeathsig(argv: Sequence[Argument]) -> list[str]:
    """The same command, killed by the kernel when this process is gone."""
    program = tool(str(argv[0]))
    rest = [str(argument) for argument in argv[1:]]
    return [str(tool("setpriv")), "--pdeathsig", "KILL", "--", str(program), *rest]


def last_lines(text: str, count: int = 3) -> str:
    """The last ``count`` lines that are not blank, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-_LONGEST_TOLD:] or "it said nothing"


def _text(content: bytes) -> str:
    """``content`` as text, whatever ends its lines."""
    return content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


class _TooMuchError(Exception):
    """A program says more than anybody wants to hear."""


def _exchanged(
    process: subprocess.Popen[bytes], stdin: str | None, timeout: float | None, most: int
) -> tuple[bytes, bytes]:
    """What the program says on stdout and stderr (what is piped of them) until it ends.

    In this thread: one that was left reading a pipe that a grandchild holds would later read
    whatever got the closed descriptor's number.
    """
    until = None if timeout is None else time.monotonic() + timeout
    found = bytearray(), bytearray()
    given = memoryview((stdin or "").encode())
    with selectors.DefaultSelector() as pipes:
        for stream, into in zip((process.stdout, process.stderr), found, strict=True):
            if stream is not None:
                pipes.register(stream, selectors.EVENT_READ, into)
        if process.stdin is not None:
            pipes.register(process.stdin, selectors.EVENT_WRITE)
        while pipes.get_map():
            ready = pipes.select(_left(until))
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(process.args, timeout or 0)
            for each, _ in ready:
                if each.fileobj is process.stdin:
                    given = _feed(process.stdin, given)
                    ended = not given
                else:
                    piece = os.read(each.fd, 1 << 16)
                    each.data.extend(piece)
                    ended = not piece
                    if len(each.data) > most:
                        raise _TooMuchError
                if ended:
                    pipes.unregister(each.fileobj)
    process.wait(_left(until))
    return bytes(found[0]), bytes(found[1])


def _feed(stream: IO[bytes], given: memoryview) -> memoryview:
    """Write what a pipe takes without waiting (pipe(7)); returns the rest. Closes at the end."""
    try:
        given = given[os.write(stream.fileno(), given[: select.PIPE_BUF]) :]
    except BrokenPipeError:  # it does not want to know
        given = given[:0]
    if not given:
        stream.close()
    return given


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _confinement(program: Path, read: Sequence[Path], write: Sequence[Path]) -> list[str]:
    """bubblewrap's options: /usr to read, and what is named; no network and no other process."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]
    options += ["--setenv", "LC_ALL", "C.UTF-8", "--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if Path(name).is_symlink():
            options += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).exists():
            options += ["--ro-bind", name, name]
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    options += ["--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/"]  # noqa: S108 - its own
    # What is below /usr is there, and may be a link, over which bubblewrap 0.11 mounts nothing.
    programs = [] if program.is_relative_to("/usr") else [program]
    for option, paths in (("--bind", write), ("--ro-bind", [*read, *programs])):
        for path in paths:
            options += [option, str(path), str(path)]
    return options


def _ended(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"failed with status {status}"


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _output(log: Path | None) -> Iterator[int]:
    if log is None:
        yield subprocess.PIPE
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        yield stream.fileno()
