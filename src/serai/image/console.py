"""What a person sees while an image is built: a line a stage and a task, with elapsed time.

On a terminal the step under way shows a running clock; elsewhere (CI, a pipe) each step is one
plain line when it ends.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from serai.image.errors import BuildError
from serai.image.progress import Event, Note, TaskTiming

# Rich folds tables to 80 columns where there is no terminal; a log has room for more.
_WIDTH = None if sys.stdout.isatty() else 160
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(highlight=False, soft_wrap=True, stderr=True)


# Ansible's own task before a role.
_ARGUMENTS = "Validating arguments against arg spec"

# What no text holds or what would show it in another order than it is read: control characters
# (ESC among them; not tab and line end), bytes that are no UTF-8 (PEP 383), and Unicode's marks of
# direction (UAX 9).
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """``text`` with a visible mark for each character that is none or would mislead.

    All that is shown goes through it: what a guest, a disk or a mirror says could otherwise type
    into the terminal of the person who reads it, or hide what was said before.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str) -> None:
    """One line of result or news."""
    out.print(clean(text), markup=False)


def warn(text: str) -> None:
    """One line, on stderr, about something that does not stop the work."""
    err.print(f"warning: {clean(text)}", style="yellow", markup=False)


def fail(text: str) -> None:
    """The line with which a command fails."""
    err.print(f"serai: {clean(text)}", style="bold red", markup=False)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a person can act on into one line on stderr and a non-zero exit status.

    SIGTERM ends the block as Ctrl-C does, so that temporary directories and VMs go in both cases.
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
        fail(_told(error))
        raise SystemExit(1) from None


def _told(error: OSError) -> str:
    """What the system refused, and what to do about it, in one line."""
    path = error.filename2 or error.filename
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some room, 'invoke clean --cache' helps"
    hints = {
        errno.EACCES: "it may be root's since a run with sudo: chown it, or use sudo again",
        errno.EPERM: "it may be root's since a run with sudo: chown it, or use sudo again",
        errno.ENOENT: "make its directory, or name another one (SERAI_CACHE, SERAI_DIST)",
        errno.ENOTDIR: "a file is in the place of a directory (SERAI_CACHE, SERAI_DIST)",
        errno.EROFS: "name another directory (SERAI_CACHE, SERAI_DIST)",
    }
    said = f"{where}{error.strerror or error}"
    return f"{said}; {hints[error.errno]}" if error.errno in hints else said


@contextmanager
def aside(*, asked: bool) -> Iterator[None]:
    """What is said to people goes to stderr, if ``asked``: stdout is for a program."""
    global out  # noqa: PLW0603 - there is one stdout
    before = out
    try:
        out = err if asked else out
        yield
    finally:
        out = before


def tell_program(value: object) -> None:
    """One value on stdout, as JSON in ASCII: docs/json.md has what each key means."""
    print(json.dumps(value, indent=2, default=str))


@contextmanager
def step(name: str, durations: dict[str, float] | None = None) -> Iterator[None]:
    """Show ``name`` while the block runs and how long it took; note the seconds in ``durations``.

    Nothing is noted for a step that fails: a manifest speaks of finished ones only.
    """
    begin, name = time.monotonic(), clean(name)
    try:
        if out.is_terminal:
            with out.status(f"{name} …"):
                yield
        else:
            say(f"… {name}")
            yield
    except BaseException:
        out.print(f"✗ {name} ({seconds(time.monotonic() - begin)})", style="red", markup=False)
        raise
    took = time.monotonic() - begin
    if durations is not None:
        durations[name] = round(took, 3)
    out.print(f"✓ {name} ({seconds(took)})", style="green", markup=False)


def show_event(event: Event) -> None:
    """A line for each step of a layer, and for each Ansible task when it has ended."""
    if isinstance(event, Note):
        out.print(f"  {clean(event.text)}", style="dim", markup=False)
    elif isinstance(event, TaskTiming):
        name = f"{event.role} : {event.name}" if event.role else event.name
        show_timing(name, event.status, event.status, event.seconds)


def show_timing(name: str, status: str, told: str, took: float) -> None:
    """A line for an Ansible task: its worst ``status``, in the words ``told``, after ``took`` s.

    None for what nobody waits for: a skipped task, or Ansible's look at a role's arguments.
    """
    if status == "skipped" or (status != "failed" and _ARGUMENTS in name):
        return
    style = {"failed": "red", "unreachable": "red", "changed": "yellow"}
    out.print(
        f"  {clean(name)} ({clean(told)}, {seconds(took)})", style=style.get(status), markup=False
    )


def seconds(value: float) -> str:
    """A duration as people read it: '0.02 s', '4.7 s', '12 min 37 s', '1 h 05 min'."""
    if value < 0.95:  # noqa: PLR2004 - one digit more for what is short
        return f"{value:.2f} s"
    if round(value, 1) < 60:  # noqa: PLR2004 - seconds
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:  # noqa: PLR2004 - minutes
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(count: float) -> str:
    """Bytes as people read them: '0 B', '18.0 KiB', '1.2 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - binary prefixes
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
