"""What the gate's file of a session says about its environment, or does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from serai.common.paths import Paths
from serai.runtime.sessions.payloads import given


def write(root: Path, content: bytes) -> Paths:
    paths = Paths(root)
    paths.gate_state.mkdir(parents=True)
    (paths.gate_state / "blue.json").write_bytes(content)
    return paths


def test_it_is_what_the_gate_wrote(tmp_path: Path) -> None:
    variables = {"API_KEY": "serai-key-00", "npm_config_cafile": "/run/x", "EMPTY": ""}
    paths = write(tmp_path, json.dumps({"name": "blue", "environment": variables}).encode())
    assert given.environment(paths, "blue") == variables
    assert given.environment(paths, "red") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b"{}",
        b'{"environment": null}',
        b'{"environment": ["A"]}',
        b'{"environment": "A=b"}',
        b"[" * 200_000,
    ],
)
def test_a_file_that_says_nothing_is_no_error(content: bytes, tmp_path: Path) -> None:
    assert given.environment(write(tmp_path, content), "blue") == {}


@pytest.mark.parametrize(("name", "value"), [("A=B", "x"), ("", "x"), ("A", 1), ("A", "x\0y")])
def test_what_is_no_variable_is_left_out(name: str, value: object, tmp_path: Path) -> None:
    content = json.dumps({"environment": {name: value, "GOOD": "1"}}).encode()
    assert given.environment(write(tmp_path, content), "blue") == {"GOOD": "1"}


def test_no_gate_is_no_error(tmp_path: Path) -> None:
    assert given.environment(Paths(tmp_path), "blue") == {}


@pytest.mark.parametrize("kind", ["pipe", "link", "large"])
def test_what_is_no_file_of_the_gate_s_is_not_read(tmp_path: Path, kind: str) -> None:
    good = json.dumps({"environment": {"API_KEY": "x"}}).encode()
    paths = write(tmp_path, good)
    file = paths.gate_state / "blue.json"
    if kind == "large":
        file.write_bytes(good + b" " * given.MOST)
    else:
        file.rename(tmp_path / "other")
        if kind == "link":
            file.symlink_to(tmp_path / "other")
        else:
            os.mkfifo(file)  # to open it would take for ever
    assert given.environment(paths, "blue") == {}
