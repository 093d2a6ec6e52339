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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.gate.audit import chain, writer
from serai.gate.audit import verify as verify_module
from serai.gate.audit.verify import Report, verify
from serai.gate.audit.writer import Log

LARGE = 1 << 20
# Three lines of what `filled` writes fit.
SMALL = 600

WRITING = """
import sys
from pathlib import Path
from serai.gate.audit.writer import Log
log = Log(Path(sys.argv[1]), 20000, 1000)
while True:
    print(log.append({"event": "decision", "session": "a"}), flush=True)
"""


@contextmanager
def opened(folder: Path, file_size: int = LARGE, files: int = 100) -> Iterator[Log]:
    log = Log(folder, file_size, files)
    try:
        yield log
    finally:
        log.close()


def filled(folder: Path, count: int, file_size: int = LARGE, files: int = 100) -> list[Path]:
    with opened(folder, file_size, files) as log:
        for number in range(count):
            log.append({"event": "decision", "session": "ab"[number % 2], "n": number})
    return paths(folder)


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*"))


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in chain.read(folder, 0, 1000)]


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def problem(folder: Path) -> str:
    report = verify(folder)
    assert report.ok is (report.problem == "")
    return report.problem


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


# What somebody may do to the lines


def test_every_changed_line_shows(tmp_path: Path) -> None:
    for index in range(9):
        folder = tmp_path / str(index)
        path = filled(folder, 9, SMALL)[index // 3]
        line = f"{path.name} line {index % 3 + 1}"

        def change(lines: list[bytes], at: int = index % 3) -> list[bytes]:
            lines[at] = lines[at].replace(b"decision", b"Decision")
            return lines

        edit(path, change)
        assert f"{line} was changed" in problem(folder)


def test_without_the_chain_a_changed_line_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (chain, verify_module, writer):
        monkeypatch.setattr(module, "sha256", lambda _: hashlib.sha256(b""))
    path = filled(tmp_path, 9)[0]
    edit(path, lambda lines: [line.replace(b"decision", b"Decision") for line in lines])
    assert problem(tmp_path) == ""


@pytest.mark.parametrize("key", ["seq", "prev", "time"])
@pytest.mark.parametrize("index", range(5))
def test_every_changed_key_shows(tmp_path: Path, key: str, index: int) -> None:
    [path] = filled(tmp_path, 5)

    def change(lines: list[bytes]) -> list[bytes]:
        entry = json.loads(lines[index])
        entry[key] = 77 if key == "seq" else "f" * 64
        lines[index] = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        return lines

    edit(path, change)
    assert f"line {index + 1}" in problem(tmp_path)


@pytest.mark.parametrize("index", range(9))
def test_every_removed_line_shows(tmp_path: Path, index: int) -> None:
    found = filled(tmp_path, 9, SMALL)
    edit(found[index // 3], lambda lines: lines[: index % 3] + lines[index % 3 + 1 :])
    last = "missing at the end"
    assert f"entry {index + 1} " in problem(tmp_path)
    assert (last if index == 8 else "removed") in problem(tmp_path)


@pytest.mark.parametrize("index", range(4))
def test_swapped_lines_show(tmp_path: Path, index: int) -> None:
    [path] = filled(tmp_path, 5)

    def swap(lines: list[bytes]) -> list[bytes]:
        lines[index], lines[index + 1] = lines[index + 1], lines[index]
        return lines

    edit(path, swap)
    found = problem(tmp_path)
    assert f"line {index + 1} is entry {index + 2} where {index + 1} should be" in found
    assert "reordered" in found


@pytest.mark.parametrize("index", range(5))
def test_a_line_that_comes_twice_shows(tmp_path: Path, index: int) -> None:
    [path] = filled(tmp_path, 5)
    edit(path, lambda lines: [*lines[: index + 1], *lines[index:]])
    assert f"line {index + 2} is entry {index + 1} where {index + 2}" in problem(tmp_path)


@pytest.mark.parametrize("garbage", [b"\n", b"null\n", b"\xff\n", b"[" * 9000 + b"\n", b"{}\n"])
def test_garbage_shows(tmp_path: Path, garbage: bytes) -> None:
    [path] = filled(tmp_path, 5)
    edit(path, lambda lines: [*lines[:2], garbage, *lines[2:]])
    assert "line 3 is no entry" in problem(tmp_path)


def test_truncation_at_every_byte_shows(tmp_path: Path) -> None:
    [path] = filled(tmp_path, 3)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        torn = whole[:size] and not whole[:size].endswith(b"\n")
        assert (f"line {lines + 1} is unfinished" if torn else "at the end") in problem(tmp_path)


@pytest.mark.parametrize("index", range(4))
def test_a_removed_file_shows(tmp_path: Path, index: int) -> None:
    filled(tmp_path, 12, SMALL)[index].unlink()
    expected = {0: "entries 1 to 3 are gone", 3: "entries 10 to 12 are missing at the end"}
    assert expected.get(index, f"entries {index * 3 + 1} to {index * 3 + 3}") in problem(tmp_path)


@pytest.mark.parametrize("index", range(4))
def test_an_emptied_or_renamed_file_shows(tmp_path: Path, index: int) -> None:
    path = filled(tmp_path, 12, SMALL)[index]
    data = path.read_bytes()
    path.write_bytes(b"")
    assert f"{index * 3 + 1} to {index * 3 + 3}" in problem(tmp_path)
    path.unlink()
    (tmp_path / f"audit-{index * 3 + 2:016d}.jsonl").write_bytes(data)
    assert f"audit-{index * 3 + 2:016d}.jsonl" in problem(tmp_path)


def test_nothing_but_the_head_left_shows(tmp_path: Path) -> None:
    for path in filled(tmp_path, 12, SMALL):
        path.unlink()
    assert "entries 1 to 12 are missing at the end" in problem(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"0" * 82])
def test_a_head_that_is_gone_shows(tmp_path: Path, content: bytes | None) -> None:
    filled(tmp_path, 2)
    (tmp_path / "head").unlink()
    if content is not None:
        (tmp_path / "head").write_bytes(content)
    assert "head is missing" in problem(tmp_path)
    filled(tmp_path, 1)
    assert "entries after 2 were missing when the log was opened" in problem(tmp_path)


@pytest.mark.parametrize("remove", [1, 2, 7])
def test_missing_lines_still_show_after_the_log_goes_on(tmp_path: Path, remove: int) -> None:
    [path] = filled(tmp_path, 7)
    edit(path, lambda lines: lines[:-remove])
    filled(tmp_path, 3)
    gone = "entry 7 " if remove == 1 else f"entries {8 - remove} to 7 "
    assert gone in problem(tmp_path)
    assert events(tmp_path)[7 - remove] == "missing"
    assert chain.read(tmp_path, 7, 1)[0]["seq"] == 8


def test_a_changed_last_line_still_shows_after_the_log_goes_on(tmp_path: Path) -> None:
    [path] = filled(tmp_path, 3)
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":3'))
    filled(tmp_path, 2)
    assert "entry 3 was changed before" in problem(tmp_path)


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
        before = len(os.listdir("/proc/self/fd"))
        for number in range(100):
            log.append({"n": number})
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        log.sync()
        log.sync()
        assert len(os.listdir("/proc/self/fd")) == before


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


# Reading


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
