from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serai.gate.audit import chain
from tests.support.audit_logs import (
    LARGE,
    SMALL,
    WRITING,
    edit,
    events,
    filled,
    opened,
    problem,
)


@pytest.mark.parametrize("file_size", [SMALL, 200_000, LARGE])
def test_reading_starts_anywhere(tmp_path: Path, file_size: int) -> None:
    count = 20 if file_size == SMALL else 2000
    filled(tmp_path, count, file_size)
    for after in range(0, count, max(1, count // 20)):
        found = chain.read(tmp_path, after, 7)
        assert [entry["seq"] for entry in found] == [*range(after + 1, count + 1)][:7]
    assert chain.read(tmp_path, count, 7) == []
    for amount in (0, 1, 5, count, count + 1):
        wanted = [*range(1, count + 1)][-amount:] if amount else []
        assert [entry["seq"] for entry in chain.tail(tmp_path, amount)] == wanted


def test_reading_one_session(tmp_path: Path) -> None:
    with opened(tmp_path, SMALL) as log:
        for number in range(20):
            log.append({"session": "ab"[number % 2], "rule": '"session":"a"'})
            log.append({"more": {"session": "a"}})
    assert [entry["seq"] for entry in chain.read(tmp_path, 4, 3, "a")] == [5, 9, 13]
    assert [entry["seq"] for entry in chain.tail(tmp_path, 3, "a")] == [29, 33, 37]
    assert chain.tail(tmp_path, 3, "c") == []


def test_a_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    [path] = filled(tmp_path, 3)
    edit(path, lambda lines: [lines[0], b"rubbish\n", lines[2], b'{"seq":4,'])
    assert events(tmp_path) == ["decision", "unreadable", "decision"]


def test_reading_and_verifying_while_the_log_is_written(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = 0
        for _ in range(20):
            for _ in range(20):
                process.stdout.readline()
            assert problem(tmp_path) == ""
            found = [entry["seq"] for entry in chain.read(tmp_path, seen, 1000)]
            assert found == [*range(seen + 1, seen + len(found) + 1)]
            seen += len(found)
        process.kill()
    assert seen > 400
