from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.gate.audit import chain
from serai.gate.audit.verify import Report, verify
from serai.gate.audit.writer import Log
from tests.support.audit_logs import (
    LARGE,
    SMALL,
    WRITING,
    events,
    filled,
    opened,
    paths,
    problem,
)
from tests.support.descriptors import open_ones


def test_a_line_has_number_time_and_the_hash_of_the_one_before(tmp_path: Path) -> None:
    [path] = filled(tmp_path / "log", 2)
    first, second = path.read_bytes().splitlines()
    assert list(json.loads(first))[:3] == ["seq", "time", "prev"]
    assert json.loads(first)["prev"] == "0" * 64
    assert json.loads(second)["prev"] == hashlib.sha256(first).hexdigest()
    assert json.loads(second)["time"].endswith("Z")
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(tmp_path / "log") == Report(True, 2, 1, 2, "")


def test_a_log_nobody_has_written_is_whole(tmp_path: Path) -> None:
    filled(tmp_path / "log", 0)
    assert verify(tmp_path / "log") == Report(True, 0, 0, 0, "")


def test_opening_again_continues_the_chain(tmp_path: Path) -> None:
    for _ in range(3):
        filled(tmp_path, 4, SMALL)
    assert verify(tmp_path) == Report(True, 12, 1, 12, "")
    assert chain.last_seq(tmp_path) == 12


def test_the_log_says_without_a_line_whether_it_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    filled(folder, 2)
    with opened(folder) as log:
        assert log.problem() == ""
        log.append({"event": "decision", "session": "a"})
        assert log.problem() == ""
        for file in folder.iterdir():
            file.unlink()
        assert log.problem() == "its directory was removed"
    assert log.problem() == "it is closed"


def test_asking_so_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append({"event": "decision", "session": "a"})
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}
        assert log.problem() == ""
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert verify(tmp_path).ok


def test_a_full_disk_is_a_problem_where_no_older_file_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(os.statvfs(tmp_path))
    found[3] = 0
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(found))
    with opened(tmp_path, SMALL) as log:
        log.append({"event": "decision", "session": "a"})
        assert log.problem() == "its disk is full"
        while len(paths(tmp_path)) < 2:
            log.append({"event": "decision", "session": "a"})
        assert log.problem() == ""


def test_there_is_one_writer(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(SeraiError, match="another process"):
        Log(tmp_path, LARGE, 2)
    filled(tmp_path, 1)


@pytest.mark.parametrize("bad", [{"seq": 1}, {"n": float("nan")}, {"n": "x" * (1 << 18)}])
def test_a_bad_entry_is_refused_and_harms_nothing(tmp_path: Path, bad: dict[str, object]) -> None:
    with opened(tmp_path) as log:
        log.append({"n": 1})
        with pytest.raises(ValueError, match=r"log|JSON"):
            log.append(bad)
        assert log.append({}) == 2
        log.close()
        with pytest.raises(ValueError, match="closed"):
            log.append({})
    assert problem(tmp_path) == ""


def test_whatever_an_entry_holds_it_is_one_line(tmp_path: Path) -> None:
    entry = {"host": 'a\n"\r\u2028\ud800ü\0', "rule": None}
    with opened(tmp_path) as log:
        log.append(entry)
    assert problem(tmp_path) == ""
    [found] = chain.read(tmp_path, 0, 10)
    assert {key: found[key] for key in entry} == entry


# Kills, power cuts and full disks


def test_a_torn_line_is_cut_off_and_noted(tmp_path: Path) -> None:
    [path] = filled(tmp_path, 3)
    with path.open("ab") as file:
        file.write(b'{"seq":4,"ti')
    assert "line 4 is unfinished" in problem(tmp_path)
    filled(tmp_path, 1)
    assert problem(tmp_path) == ""
    assert [*events(tmp_path)[3:]] == ["recovered", "decision"]
    assert chain.read(tmp_path, 3, 1)[0]["lost_bytes"] == 12


def test_a_log_ahead_of_its_head_is_whole(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    head = (tmp_path / "head").read_bytes()
    filled(tmp_path, 3)
    (tmp_path / "head").write_bytes(head)
    assert problem(tmp_path) == ""
    filled(tmp_path, 1)
    assert verify(tmp_path) == Report(True, 7, 1, 7, "")


def test_a_file_that_was_only_begun_is_no_harm(tmp_path: Path) -> None:
    filled(tmp_path, 3, SMALL)
    (tmp_path / "audit-0000000000000004.jsonl").touch()
    assert problem(tmp_path) == ""
    filled(tmp_path, 1, SMALL)
    assert verify(tmp_path) == Report(True, 4, 1, 4, "")


def test_kill_9_at_any_time_leaves_a_chain_that_goes_on(tmp_path: Path) -> None:
    last = 0
    for count in (1, 60, 150, 333):
        with subprocess.Popen(
            [sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(count):
                said = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            said = max([said, *map(int, process.stdout.read().rpartition("\n")[0].split())])
        assert said >= last + count
        filled(tmp_path, 1)
        report = verify(tmp_path)
        assert (report.ok, report.problem) == (True, "")
        assert report.last == report.entries > said
        last = report.last


def _fill_disk(folder: Path) -> None:
    log = Log(folder, LARGE, 5)
    log.append({"n": 1})
    before = paths(folder)[0].read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel then writes as much as fits, and nothing at all the next time (getrlimit(2)).
    for room in (0, 1, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
        for _ in range(2):
            with pytest.raises(OSError, match=r"space left|too large") as raised:
                log.append({"n": 2})
            assert raised.value.errno in (errno.ENOSPC, errno.EFBIG)
            assert paths(folder)[0].read_bytes() == before
            assert verify(folder) == Report(True, 1, 1, 1, "")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.append({"n": 3}) == 2
    log.close()


def test_a_full_disk_refuses_an_entry_and_leaves_the_log_whole(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_fill_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert verify(tmp_path) == Report(True, 2, 1, 2, "")


def _open_on_full_disk(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (82, limits[1]))
    log = Log(folder, LARGE, 5)
    with pytest.raises(OSError, match="too large"):
        log.append({"event": "decision"})
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.append({"event": "decision"})
    log.close()


def test_what_opening_found_is_noted_when_there_is_room_again(tmp_path: Path) -> None:
    [path] = filled(tmp_path, 3)
    with path.open("ab") as file:
        file.write(b"{")
    process = multiprocessing.get_context("spawn").Process(
        target=_open_on_full_disk, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert events(tmp_path)[3:] == ["recovered", "decision"]
    assert problem(tmp_path) == ""


def test_sync_in_a_thread_and_many_files_leave_no_descriptors(tmp_path: Path) -> None:
    with opened(tmp_path, SMALL, 4) as log:
        log.append({})
        log.sync()
        before = len(open_ones())
        for number in range(100):
            log.append({"n": number})
        assert len(open_ones()) <= before + 4
        log.sync()
        log.sync()
        assert len(open_ones()) <= before  # others may close some, too


def test_sync_without_a_descriptor_left_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_fd: int) -> int:
        raise OSError(errno.EMFILE, "none is left")

    with opened(tmp_path, SMALL, 4) as log:
        log.append({})
        log.sync()
        before = len(open_ones())
        for number in range(20):
            log.append({"n": number})
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", dup)
            with pytest.raises(OSError, match="none is left"):
                log.sync()
        log.sync()
        assert len(open_ones()) <= before  # others may close some, too


# Files


def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    found = filled(tmp_path, 100, SMALL * 2, files=3)
    assert len(found) == 3
    assert all(path.stat().st_size <= SMALL * 2 for path in found)
    report = verify(tmp_path)
    assert report.problem == ""
    assert report.entries == report.last - report.first + 1 < 20
    assert "pruned" in events(tmp_path)


@pytest.mark.parametrize("files", [1, 2, 3])
def test_pruning_is_told_from_deleting(tmp_path: Path, files: int) -> None:
    found = filled(tmp_path, 100, SMALL * 2, files)
    assert problem(tmp_path) == ""
    found[0].unlink()
    assert ("are gone" if files > 1 else "missing at the end") in problem(tmp_path)


def test_a_kill_between_the_entry_and_the_deletion_is_no_harm(tmp_path: Path) -> None:
    found = filled(tmp_path, 12, SMALL, files=4)
    kept = found[0].read_bytes()
    filled(tmp_path, 1, SMALL, files=4)
    assert not found[0].exists()
    found[0].write_bytes(kept)
    assert problem(tmp_path) == ""
    filled(tmp_path, 3, SMALL, files=4)
    assert len(paths(tmp_path)) == 4
    assert problem(tmp_path) == ""
