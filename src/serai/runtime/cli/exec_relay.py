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
import tty
from collections.abc import Iterator

from serai.runtime.cli.exec_core import Channel, Options, may_be_handed_in, request, status_of

CHUNK = 65536
END_OF_INPUT = b"\x04"


def run(options: Options, channel: Channel) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    return _with_terminal(options, channel) if options.tty else _with_pipes(options, channel)


def _with_pipes(options: Options, channel: Channel) -> int:
    handed: list[int] = []
    copies: dict[int, int] = {}
    for own in (0, 1, 2):
        if may_be_handed_in(own):
            handed.append(own)
        elif options.detach or not _is_open(own):
            handed.append(os.open(os.devnull, os.O_RDWR))
        else:
            reading, writing = os.pipe()
            handed.append(reading if own == 0 else writing)
            copies.update({0: writing} if own == 0 else {reading: own})
    channel.send("exec", request(options, "fds"), answer=True, fds=tuple(handed))
    for descriptor in handed:
        if descriptor > 2:  # noqa: PLR2004  # ours, not the caller's
            os.close(descriptor)
    return status_of(_copy(channel, copies))


def _with_terminal(options: Options, channel: Channel) -> int:
    rows, columns = _size()
    channel.send("exec", request(options, "fds", rows, columns), answer=True)
    while not channel.received:
        if (answer := channel.read()) is not None:
            return status_of(answer)
    master = channel.received[0]

    def resized(*_: object) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *_size(), 0, 0))

    signal.signal(signal.SIGWINCH, resized)
    with _raw_mode():
        answer = _copy(channel, {0: master, master: 1})
    return status_of(answer)


def _copy(channel: Channel, copies: dict[int, int]) -> dict[str, object]:
    """Copy from keys to values until the payload has ended and its output is written."""
    control = channel.socket.fileno()
    answer: dict[str, object] | None = None
    while True:
        outputs = [source for source in copies if source != 0]
        if answer is not None and not outputs:
            return answer
        # Once the payload has ended only what it has written is still of interest.
        sources = [*copies, control] if answer is None else outputs
        poll = select.poll()
        for source in sources:
            poll.register(source, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if answer is None else 0)]
        if answer is not None and not ready:
            return answer
        for source in ready:
            if source == control:
                answer = channel.read()
            elif not _copied(source, copies[source]):
                target = copies.pop(source)
                if source == 0 and os.isatty(target):
                    with contextlib.suppress(OSError):
                        os.write(target, END_OF_INPUT)
                elif source == 0:
                    os.close(target)


def _copied(source: int, target: int) -> bool:
    """Copy once; false at the end of the input, or when nobody takes it any more."""
    try:
        data = os.read(source, CHUNK)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError:
        return False
    return bool(data)


def _size() -> tuple[int, int]:
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.lines, size.columns
    return 24, 80


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _raw_mode() -> Iterator[None]:
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
