"""A backup's own part: the registry and the audit log as a tar archive, written and read again.

backup.json         first: which backup it is
registry.sqlite     as it was at one moment
audit/…             the log's files; its end is at a whole line
digests.json        last: what each part must add up to
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from serai.common import files, stdio
from serai.runtime.folders import archives
from serai.runtime.folders.exports import form, writing

FIRST, REGISTRY, AUDIT = "backup.json", "registry.sqlite", "audit"
FILE = re.compile(r"audit-[0-9]{16}\.jsonl|head")
CHUNK = 256 << 10
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(copy: int, audit: int, target: int) -> None:
    """Write the archive. Raises SeraiError or OSError.

    The gate may write the log meanwhile: its head is read first, so that no line of it is missing.
    """
    out = writing.Out(target)
    parts = {part: form.Digest() for part in ("backup", REGISTRY, AUDIT)}
    first = {"format": form.FORMAT, "id": os.urandom(16).hex()}
    out.entry(*form.text(FIRST, first), parts["backup"])
    _file(out, copy, REGISTRY, os.fstat(copy).st_size, parts[REGISTRY])
    names = sorted(
        filter(FILE.fullmatch, os.listdir(audit)), key=lambda name: (name != "head", name)
    )  # a descriptor
    for name in names:
        with suppress(FileNotFoundError):  # it was just given up as the oldest
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=audit)
            size = os.fstat(source).st_size
            whole = size if name == "head" else _lines(source, size)
            _file(out, source, f"{AUDIT}/{name}", whole, parts[AUDIT])
            os.close(source)
    out.entry(*form.text(form.LAST, {name: each.told() for name, each in parts.items()}))
    out.end()


def _lines(source: int, size: int) -> int:
    """How many bytes there are up to the end of the last whole line."""
    while size:
        begin = max(size - CHUNK, 0)
        at = os.pread(source, size - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        size = begin
    return 0


def _file(out: writing.Out, source: int, name: str, size: int, digest: form.Digest) -> None:
    made = form.entry(name, 0o600, os.fstat(source).st_mtime_ns)
    made.size = size
    out.header(made)
    total = sha256()
    for data in writing.pieces(source, 0, size):
        total.update(data)
        out.write(data)
    out.pad(size)
    digest.add(made, total.hexdigest(), size)


def _whole(content: archives.EntryContent) -> bytes:
    return b"".join(iter(lambda: content.read(CHUNK), b""))


def read(file: IO[bytes], folder: Path) -> dict[str, Any]:
    """Put what an archive has into an empty directory; returns its first entry. Raises SeraiError.

    There it counts only when this has returned: then it is verified, and on the disk.
    """
    (folder / AUDIT).mkdir()
    parts = {part: form.Digest() for part in ("backup", REGISTRY, AUDIT)}
    texts: dict[str, dict[str, Any]] = {}
    for member, content in archives.reading(file):
        part, _, name = member.name.partition("/")
        if content is None or form.LAST in texts:
            raise form.wrong(f"{ascii(member.name)[:200]} is no part of a backup")
        member.mode, member.uname = member.mode & archives.MODES, form.OURS
        if member.name in (FIRST, form.LAST) and member.size <= form.MOST_TEXT:
            raw = _whole(content)
            texts[member.name] = form.read_text(raw, member.name)
            if member.name == FIRST:
                parts["backup"].add(member, sha256(raw).hexdigest(), len(raw))
        elif member.name == REGISTRY or (part == AUDIT and FILE.fullmatch(name)):
            total = sha256()
            made = os.open(folder / member.name, _NEW, 0o600)
            try:
                while data := content.read(CHUNK):
                    total.update(data)
                    stdio.write_all(made, data)
                os.fsync(made)
            finally:
                os.close(made)
            parts[part].add(member, total.hexdigest(), member.size)
        else:
            raise form.wrong(f"{ascii(member.name)[:200]} is no part of a backup")
    wanted = {name: each.told() for name, each in parts.items()}
    if FIRST not in texts or texts.get(form.LAST) != wanted:
        raise form.wrong("it is no whole backup, or was changed")
    form.check_format(texts[FIRST])
    files.fsync(folder / AUDIT)
    files.fsync(folder)
    return texts[FIRST]
