"""What a person sees while an image is built: a line a stage and a task, with elapsed time.

On a terminal the step under way shows a running clock; elsewhere (CI, a pipe) each step is one
plain line when it ends.
"""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from serai.image.errors import BuildError
from serai.image.progress import Event, Note, TaskTiming
from serai.image.words import duration

# Rich folds tables to 80 columns where there is no terminal; a log has room for more.
_WIDTH = None if sys.stdout.isatty() else 160
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def say(text: str) -> None:
    """One line of result or news."""
    out.print(text, markup=False)


def warn(text: str) -> None:
    """One line, on stderr, about something that does not stop the work."""
    err.print(f"warning: {text}", style="yellow", markup=False)


def fail(text: str) -> None:
    """The line with which a command fails."""
    err.print(f"serai: {text}", style="bold red", markup=False)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a person can act on into one line on stderr and a non-zero exit status.

    SIGTERM ends the block as Ctrl-C does, so that temporary folders and machines go in both cases.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BuildError as error:
        fail(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt as interrupt:
        usual = "interrupted; what was under way is undone, finished stages are kept"
        fail(str(interrupt) or usual)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"the disk is full ({error.filename}); free some room, 'invoke clean --cache' helps")
        raise SystemExit(1) from None


@contextmanager
def step(name: str, durations: dict[str, float] | None = None) -> Iterator[None]:
    """Show ``name`` while the block runs and how long it took; note the seconds in ``durations``.

    Nothing is noted for a step that fails: a manifest speaks of finished ones only.
    """
    begin = time.monotonic()
    try:
        if out.is_terminal:
            with out.status(f"{name} …"):
                yield
        else:
            say(f"… {name}")
            yield
    except BaseException:
        out.print(f"✗ {name} ({duration(time.monotonic() - begin)})", style="red", markup=False)
        raise
    took = time.monotonic() - begin
    if durations is not None:
        durations[name] = round(took, 3)
    out.print(f"✓ {name} ({duration(took)})", style="green", markup=False)


def show_event(event: Event) -> None:
    """A line for each step of a layer, and for each Ansible task when it has ended."""
    if isinstance(event, Note):
        out.print(f"  {event.text}", style="dim", markup=False)
    elif isinstance(event, TaskTiming):
        name = f"{event.role} : {event.name}" if event.role else event.name
        show_timing(name, event.status, event.status, event.seconds)


def show_timing(name: str, status: str, told: str, took: float) -> None:
    """A line for an Ansible task: its worst ``status``, in the words ``told``, after ``took`` s."""
    style = {"failed": "red", "unreachable": "red", "changed": "yellow", "skipped": "dim"}
    out.print(f"  {name} ({told}, {duration(took)})", style=style.get(status), markup=False)
