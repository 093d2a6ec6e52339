"""One run of `packer build`: what it says, as it says it, and the disk between two layers."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from qemu.qmp import QMPError

from serai.image import progress
from serai.image.build.packer_program import Packer, fence, interrupt
from serai.image.errors import BuildError
from serai.image.progress import Event, TaskTiming
from serai.image.run import last_lines
from serai.image.vm import qemu, vm

# While this file is there Packer waits between two layers: see the template.
_BETWEEN = "between"
# What must be free while a VM runs, in bytes.
_ROOM = 64 << 20


@dataclass(frozen=True)
class LayerBuild:
    """What to build: the play's tag, the values of its roles' variables that are not the roles'
    own, and the file to which all is appended that Packer and Ansible say."""

    name: str
    chosen: Mapping[str, Any]
    log: Path


class PackerBuild:
    """One run of `packer build`: reads its lines as they come, and ends it on Ctrl-C.

    ``layer`` is the one under way, ``tasks`` its tasks and ``disk`` what it writes to.
    """

    def __init__(
        self,
        layers: Sequence[LayerBuild],
        work: Path,
        qmp_socket: Path,
        made: Callable[[LayerBuild, Path, list[TaskTiming]], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.layer, *self._rest = layers
        self.tasks = progress.Tasks()
        self.disk = work / "output" / "disk.qcow2"
        self._work = work
        self._qmp_socket = qmp_socket
        self._made = made
        self._on_event = on_event
        self._begin = time.monotonic()
        self._errors: dict[str, list[str]] = {"error": [], "failure": []}
        self._step = "starting packer"

    def run(self, template: Path, variables: Path, *, keep: bool) -> bool:
        """Run Packer to its end; whether it succeeded."""
        lines: Queue[tuple[float, bytes]] = Queue()
        work = self._work
        running = Packer(
            template,
            variables,
            prefix=() if keep else fence(),
            environment={
                "PACKER_CACHE_DIR": str(work / "cache"),
                "PACKER_LOG": "1",
                "PACKER_LOG_PATH": str(work / "packer.log"),
            },
            lines=lines,
        ).start(on_error="abort" if keep else "cleanup")
        try:
            while running.process.is_alive():
                self._read(lines, timeout=0.2)
                _require_room(work)
                if (work / _BETWEEN).exists():
                    self._read(lines, timeout=0.2)  # what came between these two looks
                    self._next()
        except BaseException:
            interrupt(running.process)
            raise
        if keep:  # its VM holds the output open, whose end is waited for else
            self._read(lines, timeout=0.5)
        else:
            running.process.wait()
            self._read(lines, timeout=0)
        self._tell(self.tasks.end(time.monotonic()))
        return bool(running.process.exit_code == 0)

    def _next(self) -> None:
        """Keep the disk as it is, and go on with the next layer on top of it.

        From here on the VM writes to another file, so that this one can be read meanwhile.
        """
        then = self._work / "then.qcow2"
        into = {"device": qemu.ROOT_SERIAL, "snapshot-file": str(then), "format": "qcow2"}
        try:
            vm.ask(self._qmp_socket, "blockdev-snapshot-sync", into)
        except (OSError, QMPError, asyncio.TimeoutError) as error:
            text = f"QEMU does not keep the disk of the layer {self.layer.name}: {error}"
            raise BuildError(text, log=self.layer.log) from None
        (self._work / _BETWEEN).unlink()
        self._tell(self.tasks.end(time.monotonic()))
        self._made(self.layer, self.disk, self.tasks.done)
        self.layer, *self._rest = self._rest
        self.tasks, self.disk = progress.Tasks(), then

    def why(self, console: str) -> str:
        """Why the build failed, in one line; ``console`` is what the VM said last."""
        layer = self.layer.name
        if self.tasks.failure:
            return f"layer {layer}: {self.tasks.failure}"
        said = last_lines("\n".join(self._errors["failure"] or self._errors["error"]))
        if console:
            said += f" (the VM's last words: {console})"
        return f"layer {layer}: packer failed while {self._step}: {said}"

    def _read(self, lines: Queue[tuple[float, bytes]], timeout: float) -> None:
        """Take what there is, until nothing comes for ``timeout`` seconds."""
        with self.layer.log.open("a") as log:
            while True:
                try:
                    now, chunk = lines.get(timeout=timeout)
                except Empty:
                    return
                for line in chunk.decode(errors="replace").splitlines():
                    self._line(line, now, log)

    def _line(self, line: str, now: float, log: Any) -> None:
        said = progress.packer_line(line)
        if said is None:
            return
        for text in said.text.splitlines():
            log.write(f"{now - self._begin:8.1f} {text}\n")
            if said.kind in self._errors:
                self._errors[said.kind].append(text)
            elif said.kind == "say" and (note := progress.step(text)):
                self._step = note.text
                self._tell([note])
            elif said.kind == "message":
                self._tell(self.tasks.feed(text, now))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._on_event(event)


def _require_room(work: Path) -> None:
    """QEMU stops a VM whose disk cannot grow, without a word; nothing would ever go on."""
    if shutil.disk_usage(work).free < _ROOM:
        raise BuildError(
            f"the disk below {work.parent} is full",
            hint="free some room ('invoke clean --cache' helps), or set SERAI_CACHE",
        )
