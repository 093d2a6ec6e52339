"""Making, removing, moving and looking, many times by one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import EXISTS, INVALID_PARAMS, NOT_FOUND
from serai.runtime.folders import edit


@pytest.fixture
def base(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def do(base: int, **operation: object) -> Any:
    return edit.answer(base, json.dumps(operation).encode() + b"\n")


def code(base: int, **operation: object) -> int:
    return int(do(base, **operation)["error"]["code"])


def test_each_line_has_its_answer_in_its_place(base: int, tmp_path: Path) -> None:
    operations = [
        {"do": "mkdir", "path": "a/b"},
        {"do": "stat", "path": "none"},
        {"do": "move", "path": "a/b", "to": "c"},
        {"do": "stat", "path": "c"},
        {"do": "remove", "path": "a"},
    ]
    reading, writing = os.pipe()
    os.write(writing, b"".join(json.dumps(each).encode() + b"\n" for each in operations))
    os.close(writing)
    results = os.memfd_create("results")
    edit.run(base, reading, results)
    os.close(reading)
    answers = [json.loads(line) for line in os.pread(results, 65536, 0).splitlines()]
    os.close(results)
    assert [next(iter(each)) for each in answers] == ["result", "error", *["result"] * 3]
    assert answers[1]["error"]["code"] == NOT_FOUND
    assert answers[3]["result"]["type"] == "folder"
    assert os.listdir(tmp_path) == ["c"]


def test_mkdir_may_find_it_but_no_file(base: int, tmp_path: Path) -> None:
    assert do(base, do="mkdir", path="a/b") == do(base, do="mkdir", path="a/b") == {"result": None}
    (tmp_path / "file").write_text("")
    for path in ("file", "file/x"):
        assert "no directory" in do(base, do="mkdir", path=path)["error"]["message"]


def test_a_directory_with_something_in_it_is_removed_only_if_told(
    base: int, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "a/b/-rf").mkdir(parents=True)
    (tmp_path / "a/b/out").symlink_to(tmp_path)
    assert code(base, do="remove", path="a") == EXISTS
    assert do(base, do="remove", path="a", recursive=True) == {"result": None}
    assert os.listdir(tmp_path) == ["kept"]
    (tmp_path / "out").symlink_to("kept")
    assert do(base, do="remove", path="out", recursive=True) == {"result": None}
    assert (tmp_path / "kept").exists()
    assert code(base, do="remove", path="a") == NOT_FOUND


def test_a_move_replaces_only_if_told(base: int, tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).write_text(name)
    assert code(base, do="move", path="new", to="old") == EXISTS
    assert (tmp_path / "old").read_text() == "old"
    assert do(base, do="move", path="new", to="old", replace=True) == {"result": None}
    assert (tmp_path / "old").read_text() == "new"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "up/x", "", "a\0b", "\ud800"])
@pytest.mark.parametrize("what", ["mkdir", "remove", "move"])
def test_no_path_leads_out(base: int, tmp_path: Path, what: str, path: str) -> None:
    (tmp_path / "up").symlink_to("/tmp")
    (tmp_path / "file").write_text("")
    words = {"to": path, "path": "file"} if what == "move" else {"path": path}
    if what == "mkdir" and path == "":
        return  # the path role's directory, which is there
    assert code(base, do=what, **words) == INVALID_PARAMS
    assert sorted(os.listdir(tmp_path)) == ["file", "up"]


def test_a_symlink_is_looked_at_and_not_through(base: int, tmp_path: Path) -> None:
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    assert do(base, do="stat", path="passwd")["result"]["type"] == "symlink"
    assert do(base, do="stat", path="")["result"]["type"] == "folder"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"do": "chmod", "path": "a"}\n',
        b'{"do": "mkdir"}\n',
        b'{"do": "mkdir", "path": 1}\n',
        b'{"do": "mkdir", "path": "a", "mode": 1}\n',
        b'{"do": [], "path": "a"}\n',
        b"[" * 60000 + b"\n",
        b'{"do": "mkdir", "path": "a"}',
    ],
)
def test_what_is_no_operation_is_told(base: int, line: bytes) -> None:
    assert edit.answer(base, line)["error"]["code"] == INVALID_PARAMS
