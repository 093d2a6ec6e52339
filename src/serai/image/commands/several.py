"""One command for several images: a process an image, as many at once as the host can carry.

Each process is the same command for one image, so that none knows of the others. Where two need
the same stage, the cache lets the second one wait for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import IO

from rich.table import Table
from rich.text import Text

from serai.image import console
from serai.image.definition import definition
from serai.image.parallel import EMULATOR, free_memory, processors
from serai.image.run import started
from serai.image.settings import Settings

_POLL = 0.2
_GRACE = 90.0  # seconds after Ctrl-C: a build gives Packer 30 to end its VM, and then cleans up


@dataclass(frozen=True)
class ImageRun:
    """One image's command, and what it takes: processors, and memory in MiB."""

    image: str
    argv: tuple[str, ...]
    cpus: int
    memory: int


@dataclass(frozen=True)
class Capacity:
    """What all jobs together may take."""

    cpus: int
    memory: int

    def has(self, running: Sequence[ImageRun], job: ImageRun) -> bool:
        """Whether ``job`` fits beside those that run. One always fits, whatever it takes."""
        whole = [*running, job]
        cpus, memory = sum(each.cpus for each in whole), sum(each.memory for each in whole)
        return not running or (cpus <= self.cpus and memory <= self.memory)


@dataclass
class Ending:
    """How a job ended: its exit status, what it said last, and what it printed for programs."""

    job: ImageRun
    status: int = 1
    seconds: float = 0.0
    said: str = "it did not begin"
    printed: str = ""


def names(images: Sequence[str] | None) -> list[str]:
    """The images that are asked for, each once."""
    return list(dict.fromkeys(images or [definition.DEFAULT_IMAGE]))


def command(
    settings: Settings, name: str, images: Sequence[str], options: Sequence[str], *, vms: int = 1
) -> int:
    """Run ``invoke NAME --image X OPTIONS`` for each image; 0 if all went well.

    Each keeps ``vms`` VMs running, which take about a processor each. What ``--json`` among the
    options has them print becomes one list. Raises BuildError for an image that there is not.
    """
    jobs = []
    invoke = (sys.executable, "-m", "serai.image.tasks.program")
    for image in images:
        memory = definition.megabytes(definition.load(settings, image).machine.memory) + EMULATOR
        argv = (*invoke, name, "--image", image, *options)
        jobs.append(ImageRun(image, argv, vms, vms * memory))
    logs = settings.cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    endings = run(jobs, capacity(), logs=logs, name=name)
    show(endings)
    if "--json" in options:
        console.tell_program([json.loads(each.printed) for each in endings if each.printed])
    return 1 if any(each.status for each in endings) else 0


def capacity() -> Capacity:
    """The processors that we may use, and the memory that nothing uses now."""
    return Capacity(processors(), free_memory())


def run(jobs: Sequence[ImageRun], most: Capacity, *, logs: Path, name: str) -> list[Ending]:
    """Run the jobs, each of which writes ``logs``/<image>-<name>.log, and pass on what they say.

    One that fails does not end the others. At Ctrl-C all are told to end, and are waited for.
    """
    endings = [Ending(job) for job in jobs]
    waiting, running = list(endings), list[_Running]()
    with ExitStack() as stack:
        try:
            while waiting or running:
                while waiting and most.has([each.ending.job for each in running], waiting[0].job):
                    running.append(_start(waiting.pop(0), stack, logs, name))
                time.sleep(_POLL)
                running = [each for each in running if not each.ended()]
        except KeyboardInterrupt:
            _end(running)
            raise
    return endings


def show(endings: Sequence[Ending]) -> None:
    """A line an image."""
    table = Table("image", "state", "took", "", box=None, header_style="bold", pad_edge=False)
    for each in endings:
        state = Text("failed", "red") if each.status else Text("ok", "green")
        took = console.seconds(each.seconds)
        table.add_row(each.job.image, state, took, Text(console.clean(each.said)))
    console.out.print(table)


@dataclass
class _Running:
    """A job under way, and how far its log has been read."""

    ending: Ending
    process: Popen[bytes]
    stream: IO[str]
    printed: Path
    began: float = field(default_factory=time.monotonic)

    def ended(self) -> bool:
        """Whether it has ended; passes on what it said since the last time."""
        over, image = self.process.poll() is not None, self.ending.job.image
        for line in _lines(self.stream, rest=over):
            console.say(f"{image}: {line}")
            self.ending.said = line.strip().removeprefix("serai: ") or self.ending.said
        if over:
            self.ending.status = self.process.returncode
            self.ending.seconds = time.monotonic() - self.began
            self.ending.printed = self.printed.read_text() if self.printed.exists() else ""
            self.printed.unlink(missing_ok=True)
        return over


def _start(ending: Ending, stack: ExitStack, logs: Path, name: str) -> _Running:
    log = logs / f"{ending.job.image}-{name}.log"
    printed = log.with_suffix(".json")
    for old in (log, printed):
        old.unlink(missing_ok=True)
    process = stack.enter_context(
        started(
            ending.job.argv,
            log=log,
            printed=printed if "--json" in ending.job.argv else None,
            env={"PYTHONUNBUFFERED": "1"},
            grace=_GRACE,
        )
    )
    stream = stack.enter_context(log.open(encoding="utf-8", errors="replace", newline="\n"))
    return _Running(ending, process, stream, printed)


def _end(running: Sequence[_Running]) -> None:
    """Tell all to end as Ctrl-C would, and wait: each undoes what was under way."""
    for each in running:
        if each.process.poll() is None:
            each.process.terminate()
    until = time.monotonic() + _GRACE
    for each in running:
        try:
            each.process.wait(max(0.0, until - time.monotonic()))
        except TimeoutExpired:
            console.warn(f"{each.ending.job.image} does not end by itself")
            each.process.kill()
        each.ended()


def _lines(stream: IO[str], *, rest: bool) -> Iterator[str]:
    """The lines that are complete by now, or with ``rest`` all there is."""
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line or not (rest or line.endswith("\n")):
            stream.seek(place)
            return
        yield line.rstrip("\n")
