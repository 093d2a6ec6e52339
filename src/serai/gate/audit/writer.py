"""The audit log: JSON lines in files of a bounded size, each line bound to the one before it.

A line carries the SHA-256 of the line before, so a line that is changed, removed or moved shows.
The file ``head`` says which line was the last, so a cut at the end shows too. Root can still write
the files and compute all hashes again. To detect that, keep the last hash elsewhere.

A file is named by the number (seq) of its first line, and the lines in it are numbered without a
gap. The file ``spare`` becomes the next one: beginning that takes no inode, of which sessions may
have left none. Where there is no room for a line, the oldest file goes, as where there are too
many. Entries that the log makes itself have an ``event``: ``pruned`` (the oldest files up to the
line ``through`` are deleted), ``recovered`` (``lost_bytes`` of an unfinished line were cut off when
the log was opened), ``missing`` (the lines from ``after`` to ``through`` were gone then; null if
their number is unknown) and ``changed`` (the line ``entry`` was not the expected one).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.gate.audit import chain
from serai.gate.audit.chain import HEAD, MAX_LINE, SPARE, START, Entry, Mark

# Files that may wait for sync.
MAX_RETIRED = 4

_OWN_KEYS = frozenset(("seq", "time", "prev"))


class Log:
    """The one writer of the log in ``folder``, which is made if it is not there.

    ``file_size`` is in bytes, which a file exceeds by one line at most; ``files`` is how many are
    kept. Every method but ``sync`` belongs to one thread. Opening raises SeraiError if another
    process has the log open, and OSError.
    """

    def __init__(self, folder: Path, file_size: int, files: int) -> None:
        self._folder = folder
        self._file_size = file_size
        self._files = files
        self._fd = -1  # the newest file; -1 where the next line begins one
        self._size = 0
        self._torn = False  # whether there may be more in the file than _size
        self._dirty = False  # whether the newest file has what sync has not seen
        self._retired: deque[int] = deque()  # descriptors of earlier files of which that holds
        self._descriptors = threading.Lock()
        self._notes: list[Entry] = []
        self._second = (-1, "")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._head = os.open(folder / HEAD, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._head, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._last = self._resume()
        except BlockingIOError:
            os.close(self._head)
            raise SeraiError(f"another process writes the audit log {folder}") from None
        except BaseException:
            self.close()
            raise
        # Both while there are inodes: from then on files are only used again.
        with suppress(OSError):
            if self._fd < 0:
                self._begin_file()
            self._make_spare()
        # On a full disk they wait for the first entry, which is refused until there is room.
        with suppress(OSError):
            self._write_notes()

    def append(self, entry: Mapping[str, Any]) -> int:
        """Write one line; returns its seq. The log is as before if this raises.

        Raises OSError if it cannot be written, ValueError for an entry that is not JSON, is longer
        than MAX_LINE bytes, or has one of the keys that are the log's own.
        """
        if self._head < 0:
            raise ValueError("the audit log is closed")
        self._write_notes()
        return self._append(entry)

    def problem(self) -> str:
        """Why the next line could not be written, '' if it could: without writing one.

        What the head says is written over itself, and takes no room.
        """
        if self._head < 0:
            return "it is closed"
        try:
            os.pwrite(self._head, os.pread(self._head, 256, 0), 0)
            status, disk = os.fstat(self._head), os.fstatvfs(self._head)
        except OSError as error:
            return error.strerror or str(error)
        if not status.st_nlink:
            return "its directory was removed"
        # Of a full disk the log takes the room of its oldest file, where it has one.
        full = disk.f_bfree * disk.f_frsize < MAX_LINE and len(chain.files(self._folder)) <= 1
        return "its disk is full" if full else ""

    def sync(self) -> None:
        """Bring all that was written to the disk. May be called in another thread than append."""
        with ExitStack() as opened:
            with self._descriptors:
                # First what may fail, where no descriptor is left: the retired ones would be lost.
                newest = [os.dup(self._fd)] if self._dirty else []
                fds = [*self._retired, *newest]
                self._retired.clear()
                self._dirty = False
            for fd in fds:
                opened.callback(os.close, fd)
            for fd in fds:
                os.fdatasync(fd)

    def close(self) -> None:
        """Let another process write the log. What was written is not brought to the disk."""
        with self._descriptors:
            fds = [self._fd, self._head, *self._retired]
            self._fd = self._head = -1
            self._retired.clear()
            self._dirty = False
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def _append(self, entry: Mapping[str, Any]) -> int:
        try:
            line = self._line(entry)
            if self._fd < 0 or (self._size and self._size + len(line) > self._file_size):
                self._begin_file()
                self._prune()
                line = self._line(entry)
            self._write(line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._give_up_oldest():
                raise
            self._write_notes()
            return self._append(entry)
        return self._last.seq

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        if not _OWN_KEYS.isdisjoint(entry):
            raise ValueError(f"an entry has keys of the log's own: {sorted(entry)}")
        last = self._last
        own = f'{{"seq":{last.seq + 1},"time":"{self._now()}","prev":"{last.hash}"'
        rest = chain.encode(dict(entry))
        line = f"{own},{rest[1:]}\n" if entry else f"{own}}}\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"an entry of {len(line)} bytes is too long for the audit log")
        return line.encode("ascii")

    def _write(self, line: bytes) -> None:
        if self._torn:
            os.ftruncate(self._fd, self._size)
        self._torn = True
        mark = Mark(self._last.seq + 1, sha256(line[:-1]).hexdigest())
        try:
            _write_whole(os.write(self._fd, line), line)
            head = str(mark).encode("ascii")
            _write_whole(os.pwrite(self._head, head, 0), head)
        except BaseException:
            with suppress(OSError):  # else it is done before the next line
                os.ftruncate(self._fd, self._size)
                self._torn = False
            raise
        self._torn = False
        self._size += len(line)
        self._last = mark
        self._dirty = True

    def _begin_file(self) -> None:
        path = self._folder / f"audit-{self._last.seq + 1:016d}.jsonl"
        new = self._new(path)
        with self._descriptors:
            old, dirty = self._fd, self._dirty
            self._fd, self._size, self._torn, self._dirty = new, 0, False, False
            if dirty:  # syncing takes too long for an append
                self._retired.append(old)
                old = self._retired.popleft() if len(self._retired) > MAX_RETIRED else -1
        if old >= 0:
            os.close(old)

    def _new(self, path: Path) -> int:
        spare = self._folder / SPARE
        try:
            new = os.open(spare, os.O_WRONLY | os.O_APPEND | os.O_TRUNC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.link(spare, path)  # unlike rename, in nothing's place
            spare.unlink()
        except BaseException:
            os.close(new)
            raise
        return new

    def _make_spare(self) -> None:
        """Have a file for the time when there are no inodes, if there are any now."""
        with suppress(OSError):
            os.close(os.open(self._folder / SPARE, os.O_WRONLY | os.O_CREAT, 0o600))

    def _give_up_oldest(self) -> bool:
        """Make room on a full disk by deleting the oldest file; false if there is only one.

        Its entry can only be written after that; a kill in between shows as lines that are missing.
        """
        spare = self._folder / SPARE
        if spare.exists() and spare.stat().st_size:
            os.truncate(spare, 0)
            return True
        found = chain.files(self._folder)
        if len(found) <= 1:
            return False
        found[0][1].replace(spare)
        os.truncate(spare, 0)
        self._notes.append({"event": "pruned", "through": found[1][0] - 1})
        return True

    def _prune(self) -> None:
        """Delete the oldest files. The entry comes first: it must not be what a kill prevents."""
        found = chain.files(self._folder)
        if len(found) <= self._files:
            return
        self._append({"event": "pruned", "through": found[-self._files][0] - 1})
        for _, path in found[: -self._files]:
            path.replace(self._folder / SPARE)  # emptied when it is used: now it may be read

    def _write_notes(self) -> None:
        while self._notes:
            note = self._notes.pop(0)  # writing it may add another one
            try:
                self._append(note)
            except BaseException:
                self._notes.insert(0, note)
                raise

    def _now(self) -> str:
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second[0]:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second[1]}.{rest // 1_000_000:03d}Z"

    def _resume(self) -> Mark:
        """Find the end of the log, mend what a kill or a power cut left, and open its last file.

        What is not as the head has it becomes a note, which is written as the next entry.
        """
        last, lost = self._mend()
        raw = os.pread(self._head, 256, 0)
        if not raw and last == START:
            os.pwrite(self._head, str(START).encode("ascii"), 0)
            return START
        head = chain.parse_mark(raw)
        if head is None:
            self._notes.append({"event": "missing", "after": last.seq, "through": None})
        elif head.seq > last.seq:
            # Numbers are not used again, so that no reader takes a new line for one it has seen.
            self._notes.append({"event": "missing", "after": last.seq, "through": head.seq})
            self._drop_fd()
        elif not chain.has(self._folder, head):
            self._notes.append({"event": "changed", "entry": head.seq})
        if lost:
            self._notes.append({"event": "recovered", "lost_bytes": lost})
        return last if head is None else Mark(max(head.seq, last.seq), last.hash)

    def _mend(self) -> tuple[Mark, int]:
        """Cut off an unfinished last line; returns the last whole line and the bytes cut off."""
        lost = 0
        for first, path in reversed(chain.files(self._folder)):
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND)
            whole, last, self._size = chain.end(path, first)
            torn = os.fstat(self._fd).st_size - self._size
            if torn:
                os.ftruncate(self._fd, self._size)
                lost += torn
            if whole:
                return last, lost
            # Nothing is left of it but its name, which the next line may not fit.
            self._drop_fd()
            path.unlink()
        return START, lost

    def _drop_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0


def _write_whole(written: int, data: bytes) -> None:
    """Raise OSError if a write came to its end early, as on a disk that has become full."""
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
