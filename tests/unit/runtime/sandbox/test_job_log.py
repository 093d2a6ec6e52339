from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.runtime.sandbox import job_log
from serai.runtime.sandbox.job_log import CHUNK, HEAD, TAIL


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield file
    os.close(file)


def numbered(begin: int, length: int) -> bytes:
    """Bytes that say which they are, well enough: no two places near each other are alike."""
    return b"".join(b"%07x" % each for each in range(begin // 7, (begin + length) // 7 + 1))[
        begin % 7 : begin % 7 + length
    ]


def written(log: int, length: int, step: int = CHUNK) -> None:
    total = job_log.total(log)
    while total < length:
        more = min(step, length - total)
        assert job_log.append(log, total, numbered(total, more)) == total + more
        total += more


def whole(log: int, offset: int) -> list[tuple[int, bytes]]:
    """All that is kept from a byte on, in pieces that follow each other."""
    found: list[tuple[int, bytes]] = []
    while True:
        begin, data = job_log.read(log, offset, CHUNK)
        if not data:
            return found
        if found and begin == offset:
            found[-1] = (found[-1][0], found[-1][1] + data)
        else:
            found.append((begin, data))
        offset = begin + len(data)


def test_an_empty_log_has_nothing(log: int) -> None:
    assert job_log.total(log) == 0
    assert job_log.read(log, 0, 10) == (0, b"")
    assert job_log.read(log, HEAD + 5, 10) == (HEAD + 5, b"")


@settings(max_examples=20)
@given(st.integers(0, 2 * (HEAD + TAIL)), st.integers(1, CHUNK), st.integers(0, 3 * HEAD))
def test_the_head_and_the_tail_are_kept_and_nothing_else(
    length: int, step: int, offset: int
) -> None:
    file = os.memfd_create("log")
    try:
        written(file, length, max(step, 1000))
        tail = max(HEAD, length - TAIL)
        kept = [(0, min(length, HEAD)), (tail, length)]
        for begin, data in whole(file, offset):
            assert data == numbered(begin, len(data))
            assert any(low <= begin and begin + len(data) <= high for low, high in kept) or (
                begin < HEAD and tail == HEAD
            )
        shown = sum(len(data) for _, data in whole(file, 0))
        assert shown == min(length, HEAD) + max(length - tail, 0)
        assert os.fstat(file).st_size <= 8 + HEAD + TAIL + CHUNK
    finally:
        os.close(file)


def test_what_is_written_over_while_it_is_read_is_not_returned(
    log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = HEAD + TAIL + 5 * CHUNK
    written(log, length)
    pread = os.pread
    calls: list[int] = []

    def overtaken(file: int, size: int, place: int) -> bytes:
        data = pread(file, size, place)
        if size > 8 and not calls:
            calls.append(place)
            written(log, length + 2 * CHUNK)
        return data

    monkeypatch.setattr(os, "pread", overtaken)
    begin, data = job_log.read(log, length - TAIL, CHUNK)
    assert begin == length + 2 * CHUNK - TAIL
    assert data == numbered(begin, len(data))


def test_a_log_that_has_no_room_keeps_what_it_has(
    log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(log, 100)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "pwrite", full)
        job_log.append(log, 100, b"x")
    assert job_log.read(log, 0, 1000) == (0, numbered(0, 100))
