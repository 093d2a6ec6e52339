"""The program Packer: python-packer made to work, and a fence around all that Packer starts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import sh

import packer
from serai.image.run import tool

# Packer would ask whether there is a newer one; colour would be noise in the lines read here.
ENVIRONMENT = {"CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
# How long Packer may take to end its VM after Ctrl-C, in seconds.
_GRACE = 30.0


class Packer(packer.Packer):  # type: ignore[misc]  # it has no types
    """python-packer, made to work with today's Packer and Python.

    Its build() sends an option that Packer has not, its validate() reads an attribute that
    exceptions no longer have, and its way to hand over output asks for a pseudo-terminal.
    """

    def __init__(
        self,
        template: Path,
        variables: Path,
        *,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        lines: Queue[tuple[float, bytes]] | None = None,
    ) -> None:
        command = [*prefix, str(tool("packer"))]
        super().__init__(str(template), var_file=str(variables), exec_path=command[0])
        options: dict[str, Any] = {
            "_env": {**os.environ, **ENVIRONMENT, **(environment or {})},
            "_tty_out": False,
            "_decode_errors": "replace",
        }
        if lines is not None:
            options |= {"_out": _Lines(lines), "_err_to_out": True}
        self.packer: Any = sh.Command(command[0]).bake(*command[1:], **options)

    def start(self, *, on_error: str) -> Any:
        """`packer build` in the background, in a process group of its own."""
        self.packer_cmd = self.packer.build
        self._add_opt("-machine-readable")
        self._add_opt("-parallel-builds=1")
        self._add_opt(f"-on-error={on_error}")
        self._append_base_arguments()
        self._add_opt(self.packerfile)
        return self.packer_cmd(_bg=True)

    def complaint(self) -> str:
        """What `packer validate` has against the template and its variables; '' if nothing."""
        self.packer_cmd = self.packer.validate
        self._append_base_arguments()
        self._add_opt(self.packerfile)
        try:
            self.packer_cmd()
        except sh.ErrorReturnCode as error:
            said: bytes = error.stdout + error.stderr
            return said.decode(errors="replace")
        return ""


class _Lines:
    """Where sh writes what the program says, with the time; it has a thread of its own for that."""

    def __init__(self, lines: Queue[tuple[float, bytes]]) -> None:
        self._lines = lines

    def write(self, chunk: bytes | str) -> None:
        said = chunk.encode() if isinstance(chunk, str) else chunk
        self._lines.put((time.monotonic(), said))

    def flush(self) -> None:
        """Nothing is held back."""


def fence() -> list[str]:
    """What runs Packer so that all it starts ends with it, and it with us (even on kill -9).

    Packer starts copies of itself, and those QEMU and Ansible; the kernel tells none of them that
    this process is gone. A PID namespace does: when its first process ends, the kernel kills the
    rest (pid_namespaces(7)), and unshare --kill-child ends the first one with itself.
    """
    prefix = [str(tool("setpriv")), "--pdeathsig", "KILL", "--"]
    prefix += [str(tool("unshare")), "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        prefix += ["--user", "--map-current-user"]
    return [*prefix, "--"]


def interrupt(process: Any) -> None:
    """Ctrl-C for Packer, in a process group of its own; it ends its VM and goes."""
    deadline = time.monotonic() + _GRACE
    _signal_group(process.pid, signal.SIGINT)
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
