"""What ``serai exec`` does where the caller's own descriptors must not go into a session.

Bytes are copied between them and pipes, or the master of a terminal that is the sandbox's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from errno import ECONNRESET, EIO, EPIPE
from typing import Any

from serai.common.stdio import may_be_handed_in
from serai.runtime.cli.exec_core import Channel, Failure, Options, request, status_of

CHUNK = 65536
MOST_KEPT = 64 << 20
TYPED = 5.0
"""Seconds of typing that sessiond is told of once. A session idles for longer before it freezes."""
END_OF_INPUT = bytearray(b"\x04")
"""What ends a terminal's input; as an object of its own, since the same may have been typed."""


class Kept:
    """What a payload writes to its two outputs, in memory and not more than MOST_KEPT."""

    def __init__(self) -> None:
        self.outputs = {1: bytearray(), 2: bytearray()}
        self.sources: dict[int, bytearray] = {}
        self.size = 0
        self.told = 0
        """The size at which sessiond was last told to end the payload."""

    def read(self, source: int) -> None:
        """Read once from one of the sources; one that has ended is none any more."""
        data = os.read(source, CHUNK)
        self.size += len(data)
        if not data:
            del self.sources[source]
            os.close(source)
        elif self.size <= MOST_KEPT:
            self.sources[source] += data


def run(options: Options, channel: Channel) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    return status_of((_with_terminal if options.tty else with_pipes)(options, channel))


def with_pipes(options: Options, channel: Channel, kept: Kept | None = None) -> dict[str, Any]:
    """Run the payload without a terminal; the answer. What it writes is ``kept`` if that is given.

    Of standard input nothing is read for the payload that it can read itself. Raises Failure.
    """
    handed: list[int] = []
    copies: dict[int, int] = {}
    for own in (0, 1, 2):
        if may_be_handed_in(own) and (own == 0 or kept is None):
            handed.append(own)
            continue
        if own == 0 and kept is not None and os.isatty(0):
            handed.append(os.open(os.devnull, os.O_RDONLY))
            continue
        reading, writing = os.pipe()
        handed.append(reading if own == 0 else writing)
        if own == 0:
            os.set_blocking(writing, False)  # its reader may make a pipe smaller at any time
            copies[0] = writing
        elif kept is None:
            copies[reading] = own
        else:
            kept.sources[reading] = kept.outputs[own]
    channel.send("exec", request(options, "fds"), answer=True, fds=tuple(handed))
    for descriptor in handed:
        if descriptor > 2:  # noqa: PLR2004  # ours, not the caller's
            os.close(descriptor)
    return _copy(channel, copies, kept or Kept())


def _with_terminal(options: Options, channel: Channel) -> dict[str, Any]:
    rows, columns = size()
    channel.send("exec", request(options, "fds", rows, columns), answer=True)
    while not channel.received:
        if (answer := channel.read()) is not None:
            return answer
    master = channel.received[0]
    os.set_blocking(master, False)

    def resized(*_: object) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size(), 0, 0))

    signal.signal(signal.SIGWINCH, resized)
    with raw_mode():
        return _copy(channel, {0: master, master: 1}, Kept())


def _copy(channel: Channel, copies: dict[int, int], kept: Kept) -> dict[str, Any]:
    """Copy from keys to values until the payload has ended and its output is written.

    Nothing is read before what was read last is written, and nothing waits but for all at once: a
    payload that does not read must not keep its output, or a signal, from going on.
    """
    control = channel.socket.fileno()
    answer: dict[str, Any] | None = None
    rests: dict[int, memoryview] = {}
    problem, told = "", 0.0
    while True:
        # Once the payload has ended only what it has written is still of interest.
        flowing = {key: copies[key] for key in copies if answer is None or key != 0}
        wanted = {control: select.POLLIN} if answer is None else {}
        wanted.update(dict.fromkeys(kept.sources, select.POLLIN))
        for source, target in flowing.items():
            end, event = (target, select.POLLOUT) if source in rests else (source, select.POLLIN)
            wanted[end] = wanted.get(end, 0) | event
        waits = answer is None or any(source in rests for source in flowing)
        ready = channel.ready(wanted, None if waits else 0) if wanted else {}
        if not ready:
            break
        if control in ready:
            answer = channel.read()
        if channel.received and 0 in ready and time.monotonic() > told + TYPED:
            told = time.monotonic()
            channel.typed()
        for source in kept.sources.keys() & ready:
            kept.read(source)
            if kept.size > kept.told + MOST_KEPT:  # not at each read: sessiond may take its time
                kept.told = kept.size
                channel.signal("KILL")
        for source, target in flowing.items():
            writing = source in rests
            happened = ready.get(target if writing else source, 0)
            other = select.POLLIN if writing else select.POLLOUT
            if source not in copies or not happened & ~other:
                continue
            try:
                if (_written if writing else _was_read)(rests, source, target):
                    continue
            except OSError as error:
                problem = f"what the command wrote is not complete: {error.strerror}"
            _end(copies, rests, source, hang_up=writing)
    assert answer is not None  # noqa: S101  # it waited for that
    if problem and not answer.get("status"):
        raise Failure(problem)
    return answer


def _was_read(rests: dict[int, memoryview], source: int, target: int) -> bool:
    """Read once; false at the end."""
    try:
        data: bytes | bytearray = os.read(source, CHUNK)
    except BlockingIOError:
        return True
    except OSError:  # a terminal's way to say that it ended
        data = b""
    if not data and source == 0 and os.isatty(target):
        data = END_OF_INPUT
    if data:
        rests[source] = memoryview(data)
    return source in rests


def _written(rests: dict[int, memoryview], source: int, target: int) -> bool:
    """Write once; false if it was the last, or nobody takes it any more.

    Raises OSError if output is lost otherwise.
    """
    rest = rests.pop(source)
    try:
        # Never more than a pipe surely takes: a write that waits would keep all else waiting.
        rest = rest[os.write(target, rest[: select.PIPE_BUF]) :]
    except BlockingIOError:
        pass
    except OSError as error:
        if source == 0 or error.errno in (EPIPE, EIO, ECONNRESET):
            return False
        raise
    if rest:
        rests[source] = rest
    return bool(rest) or rest.obj is not END_OF_INPUT


def _end(
    copies: dict[int, int], rests: dict[int, memoryview], source: int, *, hang_up: bool
) -> None:
    """The input has ended, or nobody takes the output any more: the payload is to notice.

    Output that has ended is not hung up: a program that has closed its terminal has not always
    ended yet, and would by SIGHUP.
    """
    target = copies.pop(source)
    rests.pop(source, None)
    if source == 0:
        if not os.isatty(target):
            os.close(target)
    else:
        if copies.get(0) == source:
            del copies[0]
            rests.pop(0, None)
        if hang_up:
            os.close(source)


def size() -> tuple[int, int]:
    """The rows and columns of the caller's terminal."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.lines, size.columns
    return 24, 80


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Let the sandbox's terminal, not the caller's, edit lines and make signals of keys."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    # Not TCSAFLUSH, the default: what was typed already is for the shell.
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
