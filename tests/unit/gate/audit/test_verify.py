from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from serai.gate.audit import chain, writer
from serai.gate.audit import verify as verify_module
from tests.support.audit_logs import (
    SMALL,
    edit,
    events,
    filled,
    problem,
)


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
    [path] = filled(tmp_path, 2)
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
