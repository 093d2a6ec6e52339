"""A VM that somebody took over says which sessions there are to back up."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import GONE, NO_ROOM, TOO_LARGE, SeraiError
from serai.runtime import packing, restore
from serai.runtime.cli import backup
from serai.runtime.client import Client


class LyingLister:
    peer = "the VM"

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, _: str) -> Any:
        return {"sessions": [{"name": self.name, "labels": {}, "state": "stopped"}]}

    def send(self, method: str, *_: object, **__: object) -> None:
        assert method == "backup"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "", "a/b", "a\n", "A"])
def test_no_part_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "one/two/backup"
    options = argparse.Namespace(directory=folder, plain=True, json=False)
    with pytest.raises(SeraiError, match="which is no name"):
        backup.run(cast("Client", LyingLister(name)), options)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["vm.tar"]


class Vm:
    """Has three sessions; something is wrong with the second one."""

    peer = "the VM"

    def __init__(self, code: int, state: str = "stopped") -> None:
        self.code, self.state = code, state
        self.imports = 0

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None: ...

    def call(self, _: str) -> Any:
        names = ("one", "two", "three")
        sessions = [{"name": name, "labels": {}, "state": self.state, "uid": 1} for name in names]
        return {"sessions": sessions}

    def send(self, method: str, *_: object, name: str = "", **__: object) -> None:
        self.imports += method == "import"
        if name == "two" or self.imports == 2:
            raise SeraiError("it is deep", code=self.code)


def backed_up(vm: Vm, folder: Path) -> int:
    options = argparse.Namespace(directory=folder, plain=True, json=False)
    return backup.run(cast("Client", vm), options)


def test_no_session_keeps_others_from_being_backed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backed_up(Vm(TOO_LARGE), tmp_path) == 1
    found = json.loads((tmp_path / restore.INDEX).read_text())
    assert set(found["parts"]) == {"vm.tar", "sessions/one.tar", "sessions/three.tar"}
    assert found["left_out"] == ["two cannot be exported: it is deep"]
    assert "left out: two" in capsys.readouterr().err


@pytest.mark.parametrize("code", [GONE, NO_ROOM])
def test_what_is_wrong_with_all_ends_a_backup(tmp_path: Path, code: int) -> None:
    with pytest.raises(SeraiError, match="it is deep"):
        backed_up(Vm(code), tmp_path)
    assert not (tmp_path / restore.INDEX).exists()


def test_no_session_keeps_others_from_being_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def unpacked(packed: int) -> Iterator[int]:
        yield packed

    monkeypatch.setattr(packing, "unpacked", unpacked)
    parts = {f"sessions/{name}.tar": "" for name in ("one", "two", "three")}
    (tmp_path / "sessions").mkdir()
    for part in parts:
        (tmp_path / part).write_bytes(b"")
    vm = Vm(TOO_LARGE, "arriving")
    with pytest.raises(SeraiError, match="2 sessions came now, and these did not: two"):
        restore.bring(lambda: cast("Client", vm), tmp_path, parts)
    assert vm.imports == 3
