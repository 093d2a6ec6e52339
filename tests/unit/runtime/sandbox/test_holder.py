"""What a holder of jobs writes down."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from serai.runtime.sandbox import holder


def test_a_disk_that_is_full_by_then_does_not_keep_a_jobs_status_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    output, written = os.pipe()
    with subprocess.Popen(["/bin/true"]) as child:
        holder.begin(folder)
        request = holder.Request("a", "", 0.0, ())
        held = holder.Held(request, child.pid, [log, folder, output, -1])
        held.ended = 3 << 8
        opened = os.open

        def full(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, "No space left on device")
            return opened(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", full)
        size = (tmp_path / holder.BEGUN).stat().st_size
        held.close(stopping=False)
    os.close(written)
    status = (tmp_path / "status").read_bytes()
    assert json.loads(status)["status"] == 3
    assert len(status) == size, "it took more room than it had"
    assert not (tmp_path / holder.BEGUN).exists()
