"""The one way in which the build host starts child processes.

Arguments are lists, never a shell's text. Every child gets PR_SET_PDEATHSIG (prctl(2)) through
setpriv(1), so that even ``kill -9`` of this process leaves nothing running.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from serai.image.errors import BuildError

# The package that brings a tool, where its name is not the tool's own.
PACKAGES = {
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "gpgv": "gpgv",
    "mcopy": "mtools",
    "mformat": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "nsenter": "util-linux",
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
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output as text.

    With ``log``, stdout and stderr are appended to that file instead of being returned.
    ``env`` is added to this process's environment. ``timeout`` is in seconds.

    Raises BuildError if the program is missing, takes too long, or (with ``check``) fails; the
    message carries the last lines of what it said.
    """
    with _output(log) as output:
        try:
            done = subprocess.run(
                with_pdeathsig(argv),
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=output,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{argv[0]} did not end within {timeout:g} s", log=log) from None
    if check and done.returncode != 0:
        said = log.read_text(errors="replace") if log else done.stderr or done.stdout
        raise BuildError(
            f"{Path(argv[0]).name} {_ended(done.returncode)}: {last_lines(said)}", log=log
        )
    return done


def run_visibly(
    argv: Sequence[Argument], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> int:
    """Run a program on our own terminal, with ``env`` added, and return its exit status."""
    whole = None if env is None else {**os.environ, **env}
    return subprocess.run(with_pdeathsig(argv), cwd=cwd, env=whole, check=False).returncode


@contextmanager
def started(
    argv: Sequence[Argument], *, log: Path, env: Mapping[str, str] | None = None, grace: float = 10
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside us; on leaving the block it is told to end, after ``grace`` s made to.

    It gets a session of its own, so that a terminal's Ctrl-C reaches it only through us.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            with_pdeathsig(argv),
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
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
    return " | ".join(lines[-count:]) or "it said nothing"


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
