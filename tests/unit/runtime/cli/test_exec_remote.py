"""Output that a command of another VM wrote, on its way to standard output."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from serai.runtime.cli import exec_remote


def test_much_is_written_at_once_where_that_does_not_wait(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    assert exec_remote._unwaiting(file) == (file, exec_remote.AT_ONCE)
    own, most = exec_remote._unwaiting(writing)
    try:
        assert own != writing and most == exec_remote.AT_ONCE
        assert os.write(own, bytes(most)) < most, "the pipe is full, and nothing waited"
        assert os.get_blocking(writing), "others who have it open wait as before"
        with pytest.raises(BlockingIOError):
            os.write(own, b"more")
    finally:
        for each in (reading, writing, own, file):
            os.close(each)


def test_little_is_written_at_once_to_all_else() -> None:
    master, terminal = os.openpty()
    try:
        assert exec_remote._unwaiting(terminal) == (terminal, select.PIPE_BUF)
    finally:
        os.close(master)
        os.close(terminal)
