"""Exports are compressed where they are kept: by the program zstd(1), beside the command.

sessiond neither packs nor unpacks: so no file makes it unpack more than it can be told to stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from errno import EINVAL

from serai.common import stdio
from serai.common.errors import INVALID_PARAMS, NO_ROOM, SeraiError
from serai.runtime.client import Client

MAGIC = b"\x28\xb5\x2f\xfd"
"""What zstd's output begins with: RFC 8878, 3.1.1."""
CHUNK = 128 << 10
PIPE = 1 << 20
"""Bytes: as many as fit, unless an administrator allows more."""


def export(client: Client, name: str, target: int, *, plain: bool) -> None:
    """Write an export to a descriptor, compressed unless it is to be plain. Raises SeraiError."""
    widen(target)
    if plain:
        client.send("export", target, name=name)
        return
    program = [zstd(), "-q", "-T0", "-c"]
    read, write = pipe()
    with os.fdopen(write, "wb") as end:
        with os.fdopen(read, "rb") as source:
            packer = subprocess.Popen(program, stdin=source, stdout=target)
        try:
            client.send("export", end.fileno(), name=name)
        except BaseException as error:
            wrong = isinstance(error, SeraiError) and _failed(packer)
            packer.kill()  # so that nobody takes a part for all of it
            packer.wait()
            if wrong:  # it has said why
                hint = "see that there is room for it"
                raise SeraiError("zstd ended; there is no export", hint, NO_ROOM) from None
            raise
    if packer.wait() != 0:
        raise SeraiError(f"zstd ended with status {packer.returncode}; there is no export")


def zstd() -> str:
    """The program. Raises SeraiError if there is none."""
    if (found := shutil.which("zstd")) is None:
        hint = "install the package zstd, or export with --plain"
        raise SeraiError("there is no zstd here", hint)
    return found


@contextlib.contextmanager
def unpacked(packed: int) -> Iterator[int]:
    """What a descriptor gives, without its compression. Raises SeraiError."""
    begin = b""
    while len(begin) < len(MAGIC) and (data := os.read(packed, len(MAGIC) - len(begin))):
        begin += data
    read, write = pipe()
    feeding = threading.Thread(target=_feed, args=(os.dup(packed), begin, write), daemon=True)
    unpacker = None
    try:
        if begin == MAGIC:
            fed, (read, end) = read, pipe()
            with os.fdopen(fed, "rb") as source, os.fdopen(end, "wb") as target:
                program = [zstd(), "-d", "-q", "-c"]
                nothing = subprocess.DEVNULL  # what it says has no name of a file
                unpacker = subprocess.Popen(program, stdin=source, stdout=target, stderr=nothing)
        feeding.start()
        yield read
    except SeraiError:
        if unpacker is not None and _failed(unpacker):  # else it is not the file's fault
            what = "this is no whole export: zstd cannot unpack all of it"
            raise SeraiError(what, "export it again", INVALID_PARAMS) from None
        raise
    finally:
        os.close(read)
        if unpacker is not None:
            unpacker.kill()
            unpacker.wait()


def _failed(unpacker: subprocess.Popen[bytes]) -> bool:
    """Whether it has found fault with what it reads or writes. One that waits has not."""
    try:
        return unpacker.wait(0.2) > 0
    except subprocess.TimeoutExpired:
        return False


def _feed(packed: int, begin: bytes, write: int) -> None:
    with contextlib.suppress(OSError), os.fdopen(packed, "rb"), os.fdopen(write, "wb"):
        stdio.write_all(write, begin)
        while _moved(packed, write):
            pass


def _moved(source: int, target: int) -> int:
    """Move bytes into a pipe; past this process, where the kernel can: splice(2)."""
    if hasattr(os, "splice"):  # Linux
        try:
            return os.splice(source, target, PIPE)
        except OSError as error:
            if error.errno != EINVAL:
                raise
    data = os.read(source, CHUNK)
    stdio.write_all(target, data)
    return len(data)


def pipe() -> tuple[int, int]:
    """A pipe that holds so much that neither end waits for the other all the time."""
    ends = os.pipe()
    widen(ends[0])
    return ends


def widen(descriptor: int) -> None:
    """The same of one that is there, if it is one: fcntl(2)."""
    with contextlib.suppress(OSError, AttributeError):  # Linux knows it
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE)
