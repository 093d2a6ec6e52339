"""What a holder of jobs writes down."""

from __future__ import annotations

import errno
import json
import marshal
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from serai.runtime.sandbox import holder
from tests.support.descriptors import open_ones


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


@pytest.mark.parametrize(("after", "reason"), [(1, "signal"), (2, "out of memory")])
def test_only_memory_that_ran_out_meanwhile_ended_a_job(
    tmp_path: Path, after: int, reason: str
) -> None:
    """The count is the session's, which may have been out of memory before."""
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 1\n")
    folder = os.open(tmp_path, os.O_RDONLY)
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    output, written = os.pipe()
    with subprocess.Popen(["/bin/true"]) as child:
        holder.begin(folder)
        request = holder.Request("a", str(tmp_path / "job"), 0.0, ())
        held = holder.Held(request, child.pid, [log, folder, output, -1])
        held.ended = 9
        events.write_text(f"oom_kill {after}\n")
        held.close(stopping=False)
    os.close(written)
    assert json.loads((tmp_path / "status").read_bytes())["reason"] == reason


def test_a_session_that_has_all_its_tasks_costs_its_holder_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: -1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    request = os.memfd_create("plan")
    os.write(request, marshal.dumps(("a", "", 0.0, ())))
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        made = holder.Holder(listener)
        before = open_ones()
        with pytest.raises(BlockingIOError):
            made._start([request, folder, folder, folder, folder])
        assert open_ones() <= before  # a thread of an earlier test may have closed one
        for descriptor in (request, folder, made._woken):
            os.close(descriptor)
