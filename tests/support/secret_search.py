"""The search for a secret, wherever a session may have it: as it is, or encoded."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

PIECE = 1 << 22
SEEN_INSIDE = ("tmp", "run", "dev/shm", "var/tmp", "root", "home")


def new_value() -> str:
    """A secret whose encoded forms all differ from it."""
    return f"sk/{secrets.token_urlsafe(24)}+{secrets.token_urlsafe(6)}=="


def forms(value: str) -> dict[str, bytes]:
    """How a value may stand in memory or in a file; of base64 what its neighbours do not change."""
    data = value.encode()
    found = {"raw": data, "raw, UTF-16": value.encode("utf-16-le"), "hex": data.hex().encode()}
    found["URL-encoded"] = quote(value, safe="").encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + data)
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        found[f"base64, {before} before"] = text[first:last]
        urlsafe = text.translate(bytes.maketrans(b"+/", b"-_"))[first:last]
        if urlsafe != text[first:last]:
            found[f"base64url, {before} before"] = urlsafe
    return found


@dataclass
class Search:
    """For one value, wherever a session may have it; ``found`` says where and how, ``looked`` at
    how many bytes of what."""

    value: str
    found: set[tuple[str, str]] = field(default_factory=set)
    looked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._forms = forms(self.value)
        self._overlap = max(map(len, self._forms.values()))

    def data(self, where: str, data: bytes) -> None:
        self.looked[where] = self.looked.get(where, 0) + len(data)
        self.found |= {(where, form) for form, text in self._forms.items() if text in data}

    def file(self, where: str, path: Path) -> None:
        """A file's content, and its name. What is gone meanwhile has nothing."""
        with contextlib.suppress(OSError):
            self.data(where, os.fsencode(path))
            if stat.S_ISREG(path.stat().st_mode):
                with path.open("rb") as opened_file:
                    self._pieces(where, opened_file.read)

    def tree(self, where: str, top: Path) -> None:
        for folder, _, names in os.walk(top):
            for name in names:
                if not (Path(folder) / name).is_symlink():
                    self.file(where, Path(folder) / name)
                else:
                    self.data(where, os.fsencode(os.readlink(Path(folder) / name)))  # noqa: PTH115

    def process(self, pid: int) -> None:
        """Environment, command line, memory and open files."""
        top = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            self.data("environment", (top / "environ").read_bytes())
            self.data("command line", (top / "cmdline").read_bytes())
            self.memory("memory", pid)
            for each in (top / "fd").iterdir():
                self.file("open file", each)

    def inside(self, pids: Sequence[int]) -> None:
        """The files that the processes see: not those of the VM, which the outermost sees."""
        done = {Path("/proc/self/ns/mnt").stat().st_ino}
        for pid in pids:
            top = Path(f"/proc/{pid}")
            with contextlib.suppress(OSError):
                if (top / "root").samefile("/") or (view := (top / "ns/mnt").stat().st_ino) in done:
                    continue
                done.add(view)
                for name in SEEN_INSIDE:
                    self.tree(f"/{name}", top / "root" / name)

    def memory(self, where: str, pid: int) -> None:
        maps = Path(f"/proc/{pid}/maps").read_text()
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for line in maps.splitlines():
                bounds, rights = line.split()[:2]
                start, end = (int(each, 16) for each in bounds.split("-"))
                if "r" in rights and not line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    with contextlib.suppress(OSError):
                        memory.seek(start)
                        self._pieces(where, partial(_at_most, memory.read, end - start, [0]))

    def _pieces(self, where: str, read: Any) -> None:
        kept = b""
        while piece := read(PIECE):
            self.data(where, kept + piece)
            kept = (kept + piece)[-self._overlap :]


def _at_most(read: Any, size: int, done: list[int], wanted: int) -> bytes:
    data: bytes = read(min(wanted, size - done[0]))
    done[0] += len(data)
    return data
