"""Exports that come compressed, and what is said of one that is not whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.runtime import packing

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="takes the program zstd")


def packed(path: Path, content: bytes) -> Path:
    command = [str(shutil.which("zstd")), "-qc"]
    path.write_bytes(subprocess.run(command, input=content, stdout=-1, check=True).stdout)
    return path


def taken(path: Path, *, to_the_end: bool = True) -> None:
    """Read it, and refuse it for another reason."""
    with path.open("rb") as file, packing.unpacked(file.fileno()) as source:
        while to_the_end and os.read(source, packing.CHUNK):
            pass
        raise SeraiError("the name is taken")


def test_an_export_that_was_cut_off_is_told_as_that(tmp_path: Path) -> None:
    path = packed(tmp_path / "s.tar.zst", os.urandom(100_000))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(SeraiError, match=r"this is no whole export: .*; export it again"):
        taken(path)


@pytest.mark.parametrize("to_the_end", [True, False])
def test_what_is_wrong_with_a_whole_one_is_said(tmp_path: Path, *, to_the_end: bool) -> None:
    path = packed(tmp_path / "s.tar.zst", os.urandom(1 << 20))
    with pytest.raises(SeraiError, match="the name is taken"):
        taken(path, to_the_end=to_the_end)
